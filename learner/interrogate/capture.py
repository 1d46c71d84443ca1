"""See what layers of a model receive and give, and change it, for as long as a `with` block lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from learner.data.batch import describe
from learner.data.moving import cloned
from learner.data.signature import checked_model, nearest
from learner.errors import LearnerError
from learner.interrogate.hooks import Tap, can_be_hooked, uncompiled
from learner.interrogate.layers import Layer, find_layers, inside
from learner.interrogate.lending import Stop, ending_early, on_one_device
from learner.interrogate.parts import Edit, checked_edit, edited, input_key, only_tensor, part_of, swapped
from learner.interrogate.pooling import Inputs, Pool, checked_pool, pooled

_CALLS = ("last", "first", "all")

NOT_TAKEN = object()  # what `take` of a `Capture` returns to pass a layer over


def capture(
    model: nn.Module,
    *layers: str | int | nn.Module,
    pool: Pool | Mapping[Any, Pool] | None = None,
    stop: bool = False,
    edit: Mapping[Any, Edit] | None = None,
    calls: str = "last",
    grad: bool = False,
) -> Capture:
    """See what layers receive and give: a context manager, and a mapping from the layer's name to what it saw.

    Each forward of the model in the block starts anew. What is kept are copies, so that a layer that writes into its
    input does not change them; with gradients on they are part of the graph. The model is left as it was however the
    block ends; a `copy.deepcopy` of it made in the block is not looked at. A compiled model runs uncompiled in the
    block, one of several devices (`DataParallel`) on the first. What a checkpoint runs again in the backward pass is
    not looked at.

    Args:
        model: any module.
        *layers: dotted names (`encoder.0`); globs, in which `*` stops at a dot and `**` does not; positions in
            `named_modules()` (0 is the model); modules. `name:in` is what goes in, `name:0` or `name:key` one element
            of a tuple or mapping, `name:in:0` an input. Where there is one tensor and nothing else but None, it is that
            tensor. Wrappers, and prefixes as `module.`, do not matter. A glob leaves out what gives no single tensor.
        pool: makes one row per sample, for all layers or a mapping by layer: a function of the tensor, or one of
            `mean`, `max`: over all axes but the first and the features; features are axis 1 of images and volumes
            (4 or 5 axes) and the last one of sequences (N, T, D);
            `flatten`: all but the first axis in one;
            `cls`, `last`: the first and the last position of a sequence;
            `masked_mean`: over the positions of a sequence that are no padding, by the `attention_mask`, padding mask
            or `lengths` that the model is called with.
        stop: end a forward when each layer was seen once; it then gives None. In a method of the model that is no
            forward it ends the block.
        edit: functions by layer, `{"block3": lambda output: 0 * output}`; what they return replaces what the layer
            gives (or receives, for `:in`). What is captured is what was put in place.
        calls: which is kept of a layer that runs several times in a forward; "all" gives lists.
        grad: whether what is kept is what the model goes on with, so that there are gradients of the output by it:
            `torch.autograd.grad(score, acts["block3"])`, or `acts["block3"].grad` after `score.backward()`. Works
            for frozen weights as well.

    Raises:
        ValueError, TypeError: at once, if an argument is wrong, a name fits nothing, or a layer is a scripted one.
        LearnerError: while the model runs, if a layer gives no tensor and nothing says what to make of it, or if a
            pool does not fit its shape; when read, if nothing ran, or not that layer; at the end, if the model ran
            but not a layer of `edit`, or if a checkpoint (`torch.utils.checkpoint`) is to run an edited layer again
            in a backward pass that has not come yet.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
        >>> with capture(model, "0", "2:in", edit={"1": lambda output: 0 * output}) as acts:
        ...     _ = model(torch.ones(5, 3))
        >>> acts["0"].shape, acts["2:in"].abs().sum().item()
        (torch.Size([5, 4]), 0.0)

        Grad-CAM, which positions of an image speak for a class:

        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
        >>> with capture(model, "1", grad=True) as acts:
        ...     scores = model(torch.ones(5, 1, 8, 8))
        >>> features = acts["1"]
        >>> gradient, = torch.autograd.grad(scores[:, 0].sum(), features)
        >>> cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
        >>> cam.shape
        torch.Size([5, 6, 6])
    """
    checked_model(model)
    if not layers and not edit:
        raise ValueError("`layers` or `edit` must be given, got neither; nothing would be captured.")
    _check_options(bool(layers), pool, stop=stop, calls=calls, grad=grad)
    found = find_layers(model, layers)
    rules = _pools(pool, found)

    if edit is not None and not isinstance(edit, Mapping):
        raise TypeError(f"`edit` must be a mapping from layers to functions, got {edit!r}.")
    edits = [(layer, f) for want, f in (edit or {}).items() for layer in find_layers(model, [want], "edit")[want]]
    for layer, f in edits:
        if not callable(f):
            raise TypeError(f"`edit` must map layers to functions of what they give, got {f!r} for {layer.name!r}.")
    return Capture(model, found, partial(_taken, rules), edits=edits, stop=stop, calls=calls, grad=grad)


def _check_options(has_layers: bool, pool: Any, *, stop: bool, calls: str, grad: bool) -> None:
    """Refuse what contradicts itself."""
    if calls not in _CALLS:
        raise ValueError(f"`calls` must be one of {', '.join(_CALLS)}, got {calls!r}.")
    if stop and (calls == "all" or not has_layers):
        reason = "`calls='all'`" if has_layers else "no layers"
        raise ValueError(f"`stop=True` must know when all was seen, got {reason}; leave one of them out.")
    if grad and (pool is not None or stop):
        wrong = "`stop=True`, which ends the forward" if stop else "a `pool`, which the model does not go on with"
        raise ValueError(f"`grad=True` needs the tensors of layers in a whole forward, got {wrong}; leave it out.")


def _taken(rules: Mapping[str, Pool | None], layer: Layer, value: Any, inputs: Inputs | None) -> Any:
    """Return what is kept of what a layer gives."""
    rule = rules.get(layer.name)
    if not callable(rule):
        value = only_tensor(value)
    if not isinstance(value, Tensor) and not callable(rule):
        if not layer.is_certain:
            return NOT_TAKEN
        hint = "" if layer.part is not None else f"pick an element, as {layer.name + ':0'!r}, or "
        raise LearnerError(
            f"a layer must give a tensor, got {describe(value)} of {layer.name!r}; {hint}give a function as `pool`."
        )
    if callable(rule):
        return rule(cloned(value))  # what it makes may share memory, and it may write into what it is given
    made = value if rule is None else pooled(value, layer, rule, inputs)
    return made.clone() if _may_share_memory(made, value) else made


def _pools(pool: Pool | Mapping[Any, Pool] | None, found: Mapping[Any, Sequence[Layer]]) -> dict[str, Pool | None]:
    """Return how each layer is pooled, by its name."""
    by_layer: dict[Any, Any] = dict(pool) if isinstance(pool, Mapping) else dict.fromkeys(found, pool)
    if unknown := [want for want in by_layer if want not in found]:
        raise ValueError(f"`pool` must be by layers that are captured, {list(found)}, got {unknown[0]!r}.")
    return {layer.name: checked_pool(rule) for want, rule in by_layer.items() for layer in found[want]}


class Capture(Mapping[str, Any]):
    """What layers saw in the last forward of a model, by name; made by `capture`, a context manager.

    May be read inside the block and after it, until the next forward inside it. Besides its name, the position or
    the module by which a layer was asked for finds it as well.

    Args:
        model: the model.
        layers: what to look at, by what it was asked for.
        edits: functions that replace what layers give, with those layers.
        take: makes of a layer and what it saw what is kept, or `NOT_TAKEN`.
        stop: whether a forward ends when each layer was seen.
        calls: which are kept of a layer that runs several times.
        grad: whether the model goes on with what is kept.

    Raises:
        TypeError: if a layer that was asked for by itself is a scripted one.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[Any, Sequence[Layer]],
        take: Callable[[Layer, Any, Inputs | None], Any],
        *,
        edits: Sequence[tuple[Layer, Edit]] = (),
        stop: bool = False,
        calls: str = "last",
        grad: bool = False,
    ) -> None:
        self._model, self._root = model, inside(model)
        self._layers: dict[str, Layer] = {}
        for layer in (layer for found in layers.values() for layer in found):
            if not can_be_hooked(layer.module):
                _require_glob(layer)
            elif layer.is_certain or layer.name not in self._layers:  # a glob may name it as well
                self._layers[layer.name] = layer
        self._names = {want: found[0].name for want, found in layers.items() if found[0].is_certain}
        for layer, _ in edits:
            if not can_be_hooked(layer.module):
                _require_glob(layer)
        self._edits = [(layer, f) for layer, f in edits if can_be_hooked(layer.module)]
        self._take, self._stop, self._calls, self._grad = take, stop, calls, grad
        self._found: dict[str, list[Any]] = {}
        self._edited: set[str] = set()
        self._missed: list[str] = []
        self._to_run_again: set[tuple[str, int]] = set()  # edits under a checkpoint, whose backward has not come
        self._has_grad = True
        self._inputs: Inputs | None = None
        self._has_run = False
        self._stack: ExitStack | None = None

    # -- on and off ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise LearnerError("a capture must be left before it is entered again; make another one to nest them.")
        self._to_run_again, self._has_grad = set(), torch.is_grad_enabled()
        with ExitStack() as stack:  # takes all off again if one cannot be put on
            stack.enter_context(uncompiled())
            stack.enter_context(on_one_device(self._model))
            if self._stop:
                stack.enter_context(ending_early(self._root, self))
            # First, so that what the model is called with is known before a layer is looked at.
            stack.callback(Tap(self._root, self.begin, None).remove)
            by_module: dict[nn.Module, list[Layer]] = {}
            for layer in (*self._layers.values(), *(layer for layer, _ in self._edits)):
                by_module.setdefault(layer.module, []).append(layer)
            for module, layers in by_module.items():
                before = partial(self._before, module) if any(layer.is_input for layer in layers) else None
                after = partial(self._after, module) if not all(layer.is_input for layer in layers) else None
                stack.callback(Tap(module, before, after).remove)
            stack.callback(Tap(self._root, None, self.end).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        if self._stack is not None:
            self._stack.close()
        self._stack = self._inputs = None
        if error is None and self._to_run_again:
            raise LearnerError(
                f"`edit` must be on when a checkpoint runs a layer again, but the backward pass of "
                f"{sorted({name for name, _ in self._to_run_again})} has not come; call `backward()` inside the `with` "
                f"block, or the model under `torch.no_grad()`."
            )
        if error is None and self._missed:
            raise LearnerError(
                f"`edit` must name modules that run, but {self._missed} did not; nothing was changed there."
            )
        return isinstance(error, Stop) and error.capture is self

    # -- while the model runs --------------------------------------------------------------------------------------

    @property
    def is_in_forward(self) -> bool:
        """Whether the model runs, and not only a part of it."""
        return self._inputs is not None

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forget what was seen: a forward of the model begins."""
        self._found, self._has_run, self._has_grad = {}, True, torch.is_grad_enabled()
        self._inputs = Inputs(self._root, args, kwargs)

    def end(self, output: Any = None) -> None:
        """Forget what the model was called with, which says nothing of what runs next."""
        self._inputs = None
        self._missed = [layer.name for layer, _ in self._edits if layer.is_certain and layer.name not in self._edited]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs: dict[int | str, Any] = dict(enumerate(args))
        inputs.update(kwargs)
        for layer, edit in self._edits:
            if layer.module is module and layer.is_input:
                key = input_key(layer, inputs)
                inputs[key] = checked_edit(layer, inputs[key], self._edit(layer, edit, inputs[key]))
        inputs = self._look(module, inputs, is_input=True)
        return tuple(inputs[i] for i in range(len(args))), {name: inputs[name] for name in kwargs}

    def _after(self, module: nn.Module, value: Any) -> Any:
        if module is self._root and not self.is_in_forward:  # it was stopped
            return value
        for layer, edit in self._edits:
            if layer.module is module and not layer.is_input:
                value = edited(layer, value, partial(self._edit, layer, edit))
        return self._look(module, value, is_input=False)

    def _edit(self, layer: Layer, edit: Edit, old: Any) -> Any:
        """Return what an edit makes, and note that it was made; under a checkpoint, until its backward pass comes."""
        new = edit(old)
        self._edited.add(layer.name)
        if not (self._has_grad and _is_checkpointed()):
            return new
        if isinstance(new, Tensor) and new.is_floating_point() and torch.is_grad_enabled() and not new.requires_grad:
            new = new.detach().requires_grad_()
        if _is_in_backward():
            self._to_run_again = {place for place in self._to_run_again if place[0] != layer.name}
            return new
        place = layer.name, len(self._to_run_again)
        self._to_run_again.add(place)
        if isinstance(new, Tensor) and new.requires_grad:
            # A checkpoint may not come here again, if all that it needs is before this; but the gradient does.
            new.register_hook(lambda gradient: self._to_run_again.discard(place))  # type: ignore[no-untyped-call]
        return new

    def _look(self, module: nn.Module, value: Any, is_input: bool) -> Any:
        """Keep what was asked for; return what the model is to go on with."""
        if _is_in_backward():  # in which checkpoints run layers again
            return value
        for name, layer in self._layers.items():
            if layer.module is module and layer.is_input == is_input:
                value = self._keep(name, layer, value)
        # Before the model's own forward begins there is nothing that could be ended.
        if self._stop and len(self._found) == len(self._layers) and module is not self._root:
            raise Stop(self)
        return value

    def _keep(self, name: str, layer: Layer, value: Any) -> Any:
        earlier = self._found.get(name, [])
        if self._calls == "first" and earlier:
            return value
        part = part_of(layer, value)
        taken = self._take(layer, part, self._inputs)
        if taken is NOT_TAKEN:
            return value
        self._found[name] = [*earlier, taken] if self._calls == "all" else [taken]
        self._has_run = True
        if not self._grad:
            return value
        _require_gradient(layer, taken)
        return swapped(value, only_tensor(part), taken.clone())

    # -- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str | int | nn.Module) -> Any:
        name = self._names.get(key, key)
        if name in self._found:
            return self._found[name] if self._calls == "all" else self._found[name][0]
        if name not in self._layers:
            hint = nearest(name, self._layers) if isinstance(name, str) else ""
            raise KeyError(f"{key!r} was not asked for{hint}; there is {', '.join(map(repr, self._layers))}.")
        if not self._has_run:
            raise LearnerError(f"the model must run before {key!r} is read; call it inside the `with` block.")
        raise LearnerError(
            f"`layers` must be modules that run, but {key!r} did not; of those asked for {list(self._found)} did. What "
            f"a module's parent uses by its weights alone never runs, nor does a branch not taken."
        )

    def __contains__(self, key: object) -> bool:
        name: Any = self._names.get(key, key)
        return name in self._layers and (self._layers[name].is_certain or name in self._found)

    def __iter__(self) -> Iterator[str]:
        """Give the names, without those that only a glob named and that did not run."""
        return (name for name, layer in self._layers.items() if layer.is_certain or name in self._found)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        def line(name: str) -> str:
            values = self._found.get(name)
            return f"{name or '(the model)'}: {', '.join(map(describe, values)) if values else 'not run'}"

        return "\n".join(["Capture", *map(line, self)])


def _may_share_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether writing into one tensor may change the other."""
    if a is b:
        return True
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, nested and other tensors without one storage
        return True


def _require_gradient(layer: Layer, taken: Tensor) -> None:
    """Have a gradient by what was captured computed."""
    if not torch.is_grad_enabled() or not taken.is_floating_point():
        wrong = describe(taken) if torch.is_grad_enabled() else "gradients off, as under `torch.no_grad()`"
        raise LearnerError(f"`grad=True` needs floats and gradients on, got {wrong} at {layer.name!r}.")
    if not taken.requires_grad:
        taken.requires_grad_()
    taken.retain_grad()


def _require_glob(layer: Layer) -> None:
    """Pass over a layer without hooks that a glob means.

    Raises:
        TypeError: if it was asked for by itself.
    """
    if layer.is_certain:
        raise TypeError(
            f"`layers` must be modules that run in Python, got {layer.name!r}, which is scripted or traced; choose the "
            f"module around it, or use the module that was scripted."
        )


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _is_checkpointed() -> bool:
    """Tell whether `torch.utils.checkpoint` runs this, which will run it again in the backward pass."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
    return False
