"""Forward hooks for as long as a fit: on in `before_fit`, off again however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from learner import Callback, Hook, Hooks, Learner
from learner.data.batch import fields_of
from learner.data.moving import to_device
from learner.interrogate.hooks import can_be_hooked, uncompiled
from learner.interrogate.layers import find_layers, named_layers
from learner.loop.frequency import Every

_OF_A_HOOK = {"f", "_handle", *dir(Hook)}  # attributes that are not a hook function's


class HooksCallback(Callback):
    """Call `hookfunc(hook, module, inputs, output)` each time a module of the model has run, while fitting.

    Only what runs inside `predict` counts, and only in the passes and batches asked for; in these a compiled model
    runs uncompiled, since compiled code calls no hooks. The function may keep what it finds as attributes of its
    hook; the hooks stay readable as `hooks` after the fit. The next fit has new ones. A checkpoint holds these
    attributes, which must be plain data then (`learner.checkpoint.plain`), so that a fit that goes on has them.

    Args:
        hookfunc: called with the `Hook`, the module, its inputs (a tuple) and its output; what it returns is ignored.
        modules: modules, dotted names, globs or positions in `named_modules()`, one or several; all leaves of the
            model (modules without children) if None.
        mod_filter: a function of a module that says whether to keep it.
        on_train: whether to look at passes that train, those over loaders named `train…`.
        on_valid: whether to look at validation passes within the fit, over loaders named `valid…`.
        every: how often to look, as any callback's: 10 is the tenth batch of these passes, the twentieth, …

    Attributes:
        hooks: a `Hook` for each module, in order; empty before the first fit.
        layers: the class name of each watched module by its dotted name, in the order of `hooks`.

    Reads:
        `model`, `role`.

    Raises:
        TypeError, ValueError: when made, for an argument of the wrong kind; when a fit begins, for a module or name
            that is not in the model, or if there is nothing to watch.

    Example:
        >>> import torch
        >>> from torch.nn.functional import mse_loss
        >>> from learner import Loaders
        >>> def largest(hook, module, inputs, output): hook.largest = output.detach().amax()
        >>> model = nn.Sequential(nn.Linear(1, 4), nn.Sigmoid(), nn.Linear(4, 1))
        >>> watch = HooksCallback(largest, mod_filter=lambda module: isinstance(module, nn.Sigmoid))
        >>> dls = Loaders.from_arrays(train=(torch.ones(8, 1), torch.ones(8, 1)), batch_size=4)
        >>> Learner(model, dls, mse_loss, cbs=watch).fit(1)
        >>> watch.layers, bool(watch.hooks[0].largest < 1)
        ({'1': 'Sigmoid'}, True)
    """

    order = -10

    def __init__(
        self,
        hookfunc: Callable[[Any, nn.Module, tuple[Any, ...], Any], Any],
        modules: nn.Module | str | int | Iterable[nn.Module | str | int] | None = None,
        mod_filter: Callable[[nn.Module], object] | None = None,
        on_train: bool = True,
        on_valid: bool = False,
        every: int | str | None = None,
    ) -> None:
        if not callable(hookfunc):
            raise TypeError(f"`hookfunc` must be a function of (hook, module, inputs, output), got {hookfunc!r}.")
        if mod_filter is not None and not callable(mod_filter):
            raise TypeError(f"`mod_filter` must be a function of a module, got {mod_filter!r}.")
        if not (on_train or on_valid):
            raise ValueError("`on_train` or `on_valid` must be True, got neither; nothing would be watched.")
        Every.of(every)  # raises now, not only when a learner gets this callback
        self.hookfunc, self.mod_filter, self.every = hookfunc, mod_filter, every
        if isinstance(modules, nn.Module | str | int):
            modules = [modules]
        self.modules = None if modules is None else list(modules)
        for module in self.modules or ():
            if not isinstance(module, nn.Module | str | int) or isinstance(module, bool):
                raise TypeError(f"`modules` must hold modules, names, globs or positions, got {module!r}.")
        self.roles = ("train",) * on_train + ("valid",) * on_valid
        self.loaders = tuple(f"{role}*" for role in self.roles)
        self.hooks: Hooks | tuple[()] = ()
        self.layers: dict[str, str] = {}
        self._is_due = False

    def before_fit(self, learn: Learner) -> None:
        """Put a hook on each module."""
        chosen = self._chosen(learn.model)
        self.layers = {name: type(module).__name__ for name, module in chosen.items()}
        self.hooks = Hooks(chosen.values(), self._call)

    def around_predict(self, learn: Learner, action: Callable[[], object]) -> None:
        """Call the hook function while the model runs, but not in a validation over a training loader."""
        self._is_due = learn.role in self.roles
        try:
            with uncompiled() if self._is_due else nullcontext():
                action()
        finally:
            self._is_due = False

    def cleanup_fit(self, learn: Learner) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the attributes of the hooks, and on which device they are."""
        kept = {name: _attributes_of(hook) for name, hook in zip(self.layers, self.hooks, strict=True)}
        devices = {name: {key: _device_of(value) for key, value in values.items()} for name, values in kept.items()}
        return {"layers": dict(self.layers), "kept": kept, "devices": devices}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, while there are hooks."""
        for hook, (name, values) in zip(self.hooks, state["kept"].items(), strict=False):
            for key in _attributes_of(hook):
                delattr(hook, key)
            for key in values.keys() - _OF_A_HOOK:
                device = state["devices"][name][key]
                value = values[key] if device is None else to_device(values[key], torch.device(device))
                setattr(hook, key, value)

    def differences(self, state: dict[str, Any]) -> Iterator[str]:
        """Yield a line if other layers were watched."""
        if self.layers and list(self.layers) != list(state["layers"]):
            yield f"the layers to watch are {list(self.layers)} here, {list(state['layers'])} saved"

    def _call(self, hook: Hook, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._is_due:
            self.hookfunc(hook, module, inputs, output)

    def _chosen(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the modules to watch by dotted name, each once."""
        inside = named_layers(model)
        if self.modules is None:
            chosen = {name: module for name, module in inside.items() if _is_leaf(name, module)}
        else:
            names = {module: name for name, module in inside.items()}
            found = [layer for layers in find_layers(model, self.modules, "modules").values() for layer in layers]
            if parts := [layer.name for layer in found if layer.is_input or layer.part is not None]:
                raise ValueError(f"`modules` must be whole modules, got {parts[0]!r}; `hookfunc` is given all parts.")
            chosen = {names[layer.module]: layer.module for layer in found}
        kept = {name: module for name, module in chosen.items() if not self.mod_filter or self.mod_filter(module)}
        if not kept:
            raise ValueError(
                f"`modules` and `mod_filter` must leave a module to watch, got none of {len(chosen)}; a filter on its "
                f"own is asked about leaves, for larger parts pass `modules`."
            )
        if scripted := [name for name, module in kept.items() if not can_be_hooked(module)]:
            raise ValueError(
                f"`modules` must be modules that run in Python, got {scripted}, scripted or traced; choose others by "
                f"`modules` or `mod_filter`, or use the modules that were scripted."
            )
        return kept


def _attributes_of(hook: Hook) -> dict[str, Any]:
    """Return the attributes that a hook function has set."""
    return {key: value for key, value in vars(hook).items() if key not in _OF_A_HOOK}


def _device_of(value: Any) -> str | None:
    """Return the device of the first tensor in nested containers; all of them are moved to it when loaded."""
    tensor = first_tensor(value)
    return None if tensor is None else str(tensor.device)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in nested tuples, lists, mappings and dataclasses, depth first, or None."""
    if isinstance(value, Tensor):
        return value
    if (fields := fields_of(value)) is not None:
        value = tuple(fields.values())
    if isinstance(value, tuple | list):
        for part in value:
            if (found := first_tensor(part)) is not None:
                return found
    return None


def checked_count(name: str, value: Any) -> int:
    """Return a value that is a whole number of at least 1, or raise an error that names it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")
    return int(value)


def _is_leaf(name: str, module: nn.Module) -> bool:
    # A parametrization (weight norm) is a child of the layer whose weight it computes: the layer is the leaf.
    has_children = any(child != "parametrizations" for child, _ in module.named_children())
    return not has_children and "parametrizations" not in name.split(".")
