"""What a model's `forward` takes, read once and asked often."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from inspect import Parameter
from typing import Any

import torch
from torch import nn

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_BY_POSITION, Parameter.KEYWORD_ONLY)


class ForwardSignature:
    """The parameters of a model's `forward`, seen through wrappers such as `torch.compile` and data parallel.

    Example:
        >>> takes = ForwardSignature(nn.Linear(3, 2))
        >>> str(takes), takes.names, takes.fits((1,)), takes.fits((1, 2))
        ('(input: torch.Tensor) -> torch.Tensor', ['input'], True, False)
    """

    def __init__(self, model: nn.Module) -> None:
        self._signature = _signature_of(unwrapped(model))
        parameters = self._signature.parameters.values()
        self.names = [p.name for p in parameters if p.kind in _NAMED]
        self.required = [p.name for p in parameters if p.kind in _NAMED and p.default is Parameter.empty]
        self.by_position = [p.name for p in parameters if p.kind in _BY_POSITION]
        self.positional_only = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_ONLY]
        self.takes_any_name = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        self.takes_whole_mapping = _is_for_a_batch(self._signature)

    def knows_any(self, names: Iterable[str]) -> bool:
        """Tell whether one of these names, or a mapping of them, could go in."""
        return self.takes_whole_mapping or not set(self.names).isdisjoint(names)

    def asks_for(self, names: Iterable[str]) -> bool:
        """Tell whether all that must be given, and at least something, is among these names."""
        return set(self.required) <= set(names) and not set(self.names).isdisjoint(names)

    def takes_by_name(self, names: Iterable[str]) -> bool:
        """Tell whether all of these could go in by name, and nothing would be missing."""
        names = set(names)
        if not names.isdisjoint(self.positional_only):
            return False
        return set(self.required) <= names and (self.takes_any_name or names <= set(self.names))

    def fits(self, args: Iterable[Any], kwargs: Mapping[str, Any] | None = None) -> bool:
        """Tell whether `forward` could be called so."""
        return self.misfit(args, kwargs) is None

    def misfit(self, args: Iterable[Any], kwargs: Mapping[str, Any] | None = None) -> str | None:
        """Return what would be wrong with such a call, or None."""
        try:
            self._signature.bind(*args, **(kwargs or {}))
        except TypeError as error:
            return str(error)
        return None

    def __str__(self) -> str:
        return str(self._signature).replace("'", "")  # of annotations that are strings


def _signature_of(model: nn.Module) -> inspect.Signature:
    """Return the signature of `forward`; of a scripted or traced model that of its schema."""
    if not isinstance(model, torch.jit.ScriptModule):
        return inspect.signature(model.forward)
    return inspect.Signature(
        [
            Parameter(
                argument.name,
                Parameter.KEYWORD_ONLY if argument.kwarg_only else Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else Parameter.empty,
            )
            for argument in model.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        ]
    )


def nearest(name: str, among: Iterable[str]) -> str:
    """Return a hint at what a missing name may be called, or nothing."""
    close = difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, data parallel and other wrappers that pass all arguments on."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        kinds = {p.kind for p in _signature_of(model).parameters.values()}
        if not kinds <= {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
            return model
        model = inner


def _is_for_a_batch(signature: inspect.Signature) -> bool:
    """Tell whether the one argument is a whole batch, by its name or its annotation."""
    parameters = [p for p in signature.parameters.values() if p.kind in _BY_POSITION]
    required = [p for p in parameters if p.default is Parameter.empty]
    if len(required or parameters) != 1:
        return False
    parameter = (required or parameters)[0]
    annotation = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
    return parameter.name == "batch" or any(name in annotation for name in ("dict", "Dict", "Mapping"))


def checked_model(model: Any) -> nn.Module:
    """Return a model that is one, or say what was given instead."""
    if isinstance(model, nn.Module):
        return model
    hint = f"; pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
    raise TypeError(f"`model` must be an nn.Module, got {model!r}{hint}.")
