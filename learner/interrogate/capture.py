"""See what layers of a model receive and give, and change it, for as long as a `with` block lasts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from learner.data.batch import describe, fields_of
from learner.data.moving import cloned, mapped
from learner.data.signature import checked_model, nearest
from learner.errors import LearnerError
from learner.interrogate.hooks import Tap, uncompiled
from learner.interrogate.layers import Layer, find_layers, inside
from learner.interrogate.pooling import Inputs, Pool, checked_pool, pooled

Edit = Callable[[Any], Any]

_CALLS = ("last", "first", "all")


def capture(
    model: nn.Module,
    *layers: str | int | nn.Module,
    pool: Pool | Mapping[Any, Pool] | None = None,
    stop: bool = False,
    edit: Mapping[Any, Edit] | None = None,
    calls: str = "last",
) -> Capture:
    """See what layers receive and give: a context manager, and a mapping from the layer's name to what it saw.

    Each forward of the model in the block starts anew. What is kept are copies, so that a layer that writes into its
    input does not change them; with gradients on they are part of the graph. The model is left as it was however the
    block ends. A compiled model runs uncompiled in the block, one of several devices (`DataParallel`) on the first.
    What a checkpoint runs again in the backward pass is not looked at.

    Args:
        model: any module.
        *layers: dotted names (`encoder.0`); globs, in which `*` stops at a dot and `**` does not; positions in
            `named_modules()` (0 is the model); modules. `name:in` is what goes in, `name:0` or `name:key` one element
            of a tuple or mapping, `name:in:0` an input. Wrappers, and prefixes as `module.`, do not matter.
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

    Raises:
        ValueError, TypeError: at once, if an argument is wrong or a name fits nothing.
        LearnerError: while the model runs, if a layer gives no tensor and nothing says what to make of it, or if a
            pool does not fit its shape; when read, if nothing ran, or not that layer; at the end, if the model ran
            but not a layer of `edit`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
        >>> with capture(model, "0", "2:in", edit={"1": lambda output: 0 * output}) as acts:
        ...     _ = model(torch.ones(5, 3))
        >>> acts["0"].shape, acts["2:in"].abs().sum().item()
        (torch.Size([5, 4]), 0.0)
    """
    checked_model(model)
    if not layers and not edit:
        raise ValueError("`layers` or `edit` must be given, got neither; nothing would be captured.")
    if calls not in _CALLS:
        raise ValueError(f"`calls` must be one of {', '.join(_CALLS)}, got {calls!r}.")
    if stop and (calls == "all" or not layers):
        reason = "`calls='all'`" if layers else "no layers"
        raise ValueError(f"`stop=True` must know when all was seen, got {reason}; leave one of them out.")
    found = find_layers(model, layers)
    rules = _pools(pool, found)

    def take(layer: Layer, value: Any, inputs: Inputs | None) -> Any:
        rule = rules.get(layer.name)
        if not isinstance(value, Tensor) and not callable(rule):
            hint = "" if layer.part is not None else f"pick an element, as {layer.name + ':0'!r}, or "
            raise LearnerError(
                f"a layer must give a tensor, got {describe(value)} of {layer.name!r}; {hint}give a function as `pool`."
            )
        if callable(rule):
            return rule(cloned(value))  # what it makes may share memory, and it may write into what it is given
        made = value if rule is None else pooled(value, layer, rule, inputs)
        return made.clone() if _may_share_memory(made, value) else made

    if edit is not None and not isinstance(edit, Mapping):
        raise TypeError(f"`edit` must be a mapping from layers to functions, got {edit!r}.")
    edits = [(layer, f) for want, f in (edit or {}).items() for layer in find_layers(model, [want], "edit")[want]]
    for layer, f in edits:
        if not callable(f):
            raise TypeError(f"`edit` must map layers to functions of what they give, got {f!r} for {layer.name!r}.")
    return Capture(model, found, take, edits=edits, stop=stop, calls=calls)


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
        take: makes of a layer and what it saw what is kept.
        stop: whether a forward ends when each layer was seen.
        calls: which are kept of a layer that runs several times.
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
    ) -> None:
        self._model, self._root = model, inside(model)
        self._layers: dict[str, Layer] = {}
        for layer in (layer for found in layers.values() for layer in found):
            if layer.is_certain or layer.name not in self._layers:  # a glob may name it as well
                self._layers[layer.name] = layer
        self._names = {want: found[0].name for want, found in layers.items() if found[0].is_certain}
        self._take, self._edits, self._stop, self._calls = take, edits, stop, calls
        self._found: dict[str, list[Any]] = {}
        self._edited: set[str] = set()
        self._missed: list[str] = []
        self._inputs: Inputs | None = None
        self._has_run = False
        self._stack: ExitStack | None = None

    # -- on and off ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise LearnerError("a capture must be left before it is entered again; make another one to nest them.")
        with ExitStack() as stack:  # takes all off again if one cannot be put on
            stack.enter_context(uncompiled())
            stack.enter_context(_on_one_device(self._model))
            if self._stop:
                stack.enter_context(_ending_early(self._root, self))
            # First, so that what the model is called with is known before a layer is looked at.
            stack.callback(Tap(self._root, self.begin, None).remove)
            by_module: dict[nn.Module, list[Layer]] = {}
            for layer in (*self._layers.values(), *(layer for layer, _ in self._edits)):
                by_module.setdefault(layer.module, []).append(layer)
            for module, layers in by_module.items():
                before = functools.partial(self._before, module) if any(layer.is_input for layer in layers) else None
                after = functools.partial(self._after, module) if not all(layer.is_input for layer in layers) else None
                stack.callback(Tap(module, before, after).remove)
            stack.callback(Tap(self._root, None, self.end).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        if self._stack is not None:
            self._stack.close()
        self._stack = self._inputs = None
        if error is None and self._missed:
            raise LearnerError(
                f"`edit` must name modules that run, but {self._missed} did not; nothing was changed there."
            )
        return isinstance(error, _Stop) and error.capture is self

    # -- while the model runs --------------------------------------------------------------------------------------

    @property
    def is_in_forward(self) -> bool:
        """Whether the model runs, and not only a part of it."""
        return self._inputs is not None

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forget what was seen: a forward of the model begins."""
        self._found, self._has_run = {}, True
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
                key = _input_key(layer, inputs)
                inputs[key] = _checked_edit(layer, inputs[key], edit(inputs[key]))
                self._edited.add(layer.name)
        self._look(module, inputs, is_input=True)
        return tuple(inputs[i] for i in range(len(args))), {name: inputs[name] for name in kwargs}

    def _after(self, module: nn.Module, value: Any) -> Any:
        if module is self._root and not self.is_in_forward:  # it was stopped
            return value
        for layer, edit in self._edits:
            if layer.module is module and not layer.is_input:
                value = _edited(layer, value, edit)
                self._edited.add(layer.name)
        self._look(module, value, is_input=False)
        return value

    def _look(self, module: nn.Module, value: Any, is_input: bool) -> None:
        if torch._C._current_graph_task_id() != -1:  # in a backward pass, in which checkpoints run layers again
            return
        for name, layer in self._layers.items():
            if layer.module is module and layer.is_input == is_input:
                self._keep(name, layer, value)
        # Before the model's own forward begins there is nothing that could be ended.
        if self._stop and len(self._found) == len(self._layers) and module is not self._root:
            raise _Stop(self)

    def _keep(self, name: str, layer: Layer, value: Any) -> None:
        earlier = self._found.get(name, [])
        if self._calls == "first" and earlier:
            return
        taken = self._take(layer, _part_of(layer, value), self._inputs)
        self._found[name] = [*earlier, taken] if self._calls == "all" else [taken]
        self._has_run = True

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
        return self._names.get(key, key) in list(self)

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


class _Stop(BaseException):  # so that no `except Exception` of a model keeps it
    """All was seen that a capture wanted to see."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture


@contextmanager
def _ending_early(module: nn.Module, capture: Capture) -> Iterator[None]:
    """Have the forward of a module give None where a capture stops it."""
    forward, own = module.forward, vars(module).get("forward")

    @functools.wraps(forward)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        is_bare = not capture.is_in_forward  # `model.forward(x)`, which calls no hooks of the model
        if is_bare:
            capture.begin(args, kwargs)
        try:
            return forward(*args, **kwargs)
        except _Stop as stop:
            if stop.capture is not capture:
                raise
            capture.end()
            return None
        finally:
            if is_bare:
                capture.end()

    vars(module)["forward"] = shortened
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


@contextmanager
def _on_one_device(model: nn.Module) -> Iterator[None]:
    """Have `DataParallel` use its first device: of replicas nobody knows which sees which samples."""
    split = {m: m.device_ids for m in model.modules() if isinstance(m, nn.DataParallel)}
    for module, devices in split.items():
        module.device_ids = devices[:1]
    try:
        yield
    finally:
        for module, devices in split.items():
            module.device_ids = devices


def _part_of(layer: Layer, value: Any) -> Any:
    """Return what is meant of what a layer gives, or of its inputs by position and name."""
    if layer.is_input and layer.part is None:
        return next(iter(value.values())) if len(value) == 1 else value
    if layer.is_input:
        return value[_input_key(layer, value)]
    if layer.part is None:
        return value
    return list(_elements(value).values())[_position(layer, value)]


def _input_key(layer: Layer, inputs: Mapping[int | str, Any]) -> int | str:
    """Return the position or name by which an input was passed, however the layer's name has it.

    Raises:
        LearnerError: if there is none, or several and the name does not tell which.
    """
    part, names = layer.part, list(inspect.signature(layer.module.forward).parameters)
    if part is None and len(inputs) == 1:
        (only,) = inputs
        return only
    same: list[int | str | None] = [part]  # by position and by name
    if isinstance(part, str) and part in names:
        same.append(names.index(part))
    if isinstance(part, int) and part < len(names):
        same.append(names[part])
    for key in same:
        if key is not None and key in inputs:
            return key
    raise LearnerError(f"{layer.name!r} must be an input of the layer, as `:in:0`, got {describe(dict(inputs))}.")


def _elements(value: Any) -> Mapping[Any, Any]:
    fields = fields_of(value)
    return fields if fields is not None else dict(enumerate(value)) if isinstance(value, tuple | list) else {}


def _position(layer: Layer, value: Any) -> int:
    """Return where an output holds the part that is meant.

    Raises:
        LearnerError: if it holds no such part.
    """
    elements = list(_elements(value))
    if layer.part in elements:
        return elements.index(layer.part)
    if isinstance(layer.part, int) and layer.part < len(elements):
        return layer.part
    raise LearnerError(f"{layer.name!r} must be an element of what the layer gives, got {describe(value)}.")


def _checked_edit(layer: Layer, old: Any, new: Any) -> Any:
    """Return what an edit made, if it can stand in the place of what there was."""
    if new is None or isinstance(new, Tensor) != isinstance(old, Tensor):
        raise LearnerError(
            f"an edit must return what the layer is to have, got {describe(new)} for {describe(old)} of {layer.name!r}."
        )
    return new


def _edited(layer: Layer, value: Any, edit: Edit) -> Any:
    """Return an output with what an edit makes of it, or of the part that is meant."""
    old = _part_of(layer, value)
    new = _checked_edit(layer, old, edit(old))
    if layer.part is None:
        return new
    place, positions = _position(layer, value), count()
    return mapped(value, lambda item: new if next(positions) == place else item)


def _may_share_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether writing into one tensor may change the other."""
    if a is b:
        return True
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, nested and other tensors without one storage
        return True
