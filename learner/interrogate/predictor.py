"""A model and what stands between it and a batch: called with a batch, it gives the output and chosen layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from learner.data.feed import Feed
from learner.data.moving import cloned, to_device
from learner.interrogate.layers import Layer, places_by_name

if TYPE_CHECKING:
    from learner.interrogate.capture import Capture


class PredictorOutput(NamedTuple):
    """What a model gave for a batch: its output untouched, the layers that were asked for, and notes."""

    forward: Any
    hidden_layers: dict[int | str, Any]
    metadata: Any = None


class Predictor(Feed):
    """Feed batches of any kind to a model.

    In a Learner, with nothing set: a tensor goes in as it is; of a tuple or list all but the last element go in and
    the last is the target; of a mapping, dataclass or named tuple the fields that `forward` takes go in by name, and
    the target is the one that is left, or the one of `targets target labels label y`. Anything else goes in whole.

    Called by itself, `predictor(batch)`, it takes the first element of a tuple or list, and a mapping as it is, unless
    told otherwise; always in the order preprocess, unpack, call, wrap.

    Args:
        model: the module that is called.
        unpack_dicts: whether a mapping goes in by name, `model(**batch)`.
        unpack_lists: whether a tuple or list goes in by position, `model(*batch)`.
        preprocess_fn: makes of a batch what goes in; replaces the default, the first element of a tuple or list.
        disable_preprocess: whether the batch is left as it is.
        n_inp: how many elements of a tuple or list go in; the others are the target.
        target_key: the field that is the target.
        target_fn: makes the target of a batch; not called for `infer` loaders, which need none.
        layers: layers to keep, by position in `named_modules()` (0 is the model), name, glob or module, as for
            `learner.interrogate.capture`.
        device: where to run when called by itself; the model is moved there at once.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind, or two contradict each other.

    Example:
        >>> class Sum(nn.Module):
        ...     def forward(self, arg_1=None, arg_2=None): return arg_1 + arg_2
        >>> batch = {"arg_1": torch.tensor([0, 1]), "arg_2": torch.tensor([10, 11])}
        >>> Predictor(Sum(), unpack_dicts=True)(batch)
        PredictorOutput(forward=tensor([10, 12]), hidden_layers={}, metadata=None)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        unpack_dicts: bool | None = None,
        unpack_lists: bool | None = None,
        preprocess_fn: Callable[[Any], Any] | None = None,
        disable_preprocess: bool = False,
        n_inp: int | None = None,
        target_key: str | None = None,
        target_fn: Callable[[Any], Any] | None = None,
        layers: Sequence[int | str | nn.Module] = (),
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            model,
            unpack_dicts=unpack_dicts,
            unpack_lists=unpack_lists,
            preprocess_fn=preprocess_fn,
            disable_preprocess=disable_preprocess,
            n_inp=n_inp,
            target_key=target_key,
            target_fn=target_fn,
        )
        self.device = None if device is None else torch.device(device)
        if self.device:
            self.model.to(self.device)
        self._layers = places_by_name(self.model, layers)
        self._capture: Capture | None = None  # there while hooks are on

    def __call__(self, batch: Any) -> PredictorOutput:
        """Run the model on a batch.

        Raises:
            LearnerError: if the batch does not fit; says what it holds, what `forward` takes, what to change.
        """
        if self._layers and self._capture is None:
            with self.with_hooks():
                return self(batch)
        forward = self.call(self.model, self.preprocess(self._on_device(batch)))
        found = self._capture
        # What a glob names and what does not run, as parts that are used by their weights alone, is left out.
        hidden = {} if found is None else {layer: found[layer] for layer in self._layers if layer in found}
        return PredictorOutput(forward, hidden)

    @contextmanager
    def with_hooks(self) -> Iterator[Predictor]:
        """Put the hooks for `layers` on once for several calls; without it they come and go with each call."""
        if self._capture is not None or not self._layers:
            yield self
            return
        from learner.interrogate.capture import Capture  # who asks for no layers does not wait for it
        from learner.interrogate.parts import only_tensor

        def take(layer: Layer, value: Any, inputs: Any) -> Any:
            return cloned(value if layer.is_certain else only_tensor(value))

        with Capture(self.model, self._layers, take) as self._capture:
            try:
                yield self
            finally:
                self._capture = None

    def with_layers(self, layers: Sequence[int | str | nn.Module]) -> Predictor:
        """Return such a predictor, of the same model, that keeps more layers.

        Raises:
            ValueError: if there is no such layer.
        """
        more = copy.copy(self)
        more._capture = None  # that of this one knows its own layers alone
        more._layers = {**self._layers, **places_by_name(self.model, layers)}
        return more

    def _on_device(self, batch: Any) -> Any:
        return batch if self.device is None else to_device(batch, self.device)
