"""A whole training step as one CUDA graph: recorded once in a pass, then replayed on batches of the same shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from learner import Learner, LearnerError
from learner.data.moving import cloned, detached, tensors_of
from learner.loop.callbacks import method_of
from learner.loop.naming import ACTIONS, AROUND

_N_WARM_UP = 3  # steps on a side stream before the recording, as the documentation of torch has it
_FEW = 20  # steps of a fit that is too short for it to be said that none was replayed
_BETWEEN = ("after_predict", "after_loss", "after_backward", *ACTIONS, *AROUND)
_PLAIN = {int, float, bool, str, type(None)}


class CudaGraphs:
    """What torch has for graphs on one device; a test puts another one in its place."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, step: Callable[[], None]) -> None:
        """Call a step beside the stream that all else runs on, so that what it allocates once is there."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            step()
        here.wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record what a step does on the device, without doing it; return what does it."""
        graph = torch.cuda.CUDAGraph()
        # The threads of a loader pin memory meanwhile: in the global mode that would be an error here.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
        replay: Callable[[], None] = graph.replay
        return replay


def graphs_on(device: torch.device) -> CudaGraphs:
    """Return the graphs of a device.

    Raises:
        LearnerError: if it is no CUDA device.
    """
    if device.type != "cuda":
        raise LearnerError(
            f"`step=True` must have a CUDA device, and the model is on {device.type}; leave it out, or move the model "
            f"by DeviceCallback('cuda')."
        )
    return CudaGraphs(device)


class StepGraph:
    """Wrappers of the actions that replay a whole step where `predict` is called, and leave out the others then.

    The first batch of a training pass, and each of another shape than the recorded one, takes the way of the loop.
    A few more warm up, each a real step. Nothing is kept from one pass to the next, since whatever a graph has frozen
    may change between two passes: which parameters are trained, modes, the model itself.

    Attributes:
        n_replayed: steps that were replayed in this fit.
    """

    def __init__(self) -> None:
        self.n_replayed = 0
        self._graphs: Any = None
        self._actions: dict[str, Callable[[], object]] = {}  # as they are without this
        self._forget()

    def _forget(self) -> None:
        self._key: Any = None  # what batches have in common that fit the graph
        self._n_warm = 0  # steps of that key
        self._replay: Callable[[], None] | None = None
        self._static: list[Tensor] = []  # the inputs that the graph reads
        self._made: tuple[Any, Any, Any] = (None, None, None)  # output, predictions and loss that it writes
        self._options: list[dict[str, Any]] = []  # of the optimizer, when it was recorded
        self._is_done = False  # whether this batch's step was made in `predict`

    def __getstate__(self) -> dict[str, Any]:
        return vars(StepGraph())

    # -- what CompileCallback calls ----------------------------------------------------------------------------

    def begin_fit(self, learn: Learner, owner: Any) -> None:
        """Refuse what cannot be one graph, before the first batch."""
        self.n_replayed = 0
        self._graphs = graphs_on(next((p.device for p in learn.model.parameters()), torch.device("cpu")))
        for cb in learn.cbs:
            if cb is not owner and (names := [name for name in _BETWEEN if method_of(cb, name)]):
                raise LearnerError(
                    f"`step=True` must have no callback between forward and step, since a graph replays them as one; "
                    f"got {type(cb).__name__}, which has {', '.join(names)}. Leave one of the two out."
                )
        for group in learn.opt.param_groups if learn.opt is not None else ():
            if not group.get("capturable", group.get("fused")):
                raise LearnerError(
                    f"`opt_func` must make an optimizer whose step a graph can hold, for `step=True`, got "
                    f"{type(learn.opt).__name__}; do `partial(torch.optim.AdamW, capturable=True)`, for SGD "
                    f"`partial(torch.optim.SGD, fused=True)`."
                )

    def after_fit(self, learn: Learner) -> None:
        """Say when the graph was of no use."""
        n_steps = learn.n_steps - learn.first_step
        if not self.n_replayed and n_steps > _FEW:
            warnings.warn(
                f"`step=True` replayed none of {n_steps} steps: in no pass did {_N_WARM_UP + 2} batches of one shape "
                f"follow each other. Pad to few lengths, or leave it out.",
                RuntimeWarning,
                stacklevel=2,
            )

    def end_fit(self, learn: Learner) -> None:
        """Let go of the graph, and have rates as numbers again."""
        self._forget()
        self._graphs = None
        for group in learn.opt.param_groups if learn.opt is not None else ():
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].item()

    # -- handlers and wrappers ---------------------------------------------------------------------------------

    def before_epoch(self, learn: Learner) -> None:
        """Begin anew."""
        if learn.training:
            self._forget()
            self._actions = {}

    def around_predict(self, learn: Learner, action: Callable[[], object]) -> None:
        """Make the whole step, by the graph where there is one."""
        self._is_done = False
        if not learn.training:
            action()
            return
        is_first = len(self._actions) < len(ACTIONS)
        self._actions["predict"] = action
        key = _key((learn.xb, learn.yb))
        if is_first or (key != self._key and self._replay is not None):
            action()
            return
        if key != self._key:
            self._key, self._n_warm = key, 0
        if self._n_warm < _N_WARM_UP:
            self._n_warm += 1
            self._graphs.warm_up(self._step)
        else:
            self._replay_step(learn)
        self._is_done = True

    def around_get_loss(self, learn: Learner, action: Callable[[], object]) -> None:
        """Do it, where the step was not made yet."""
        self._do("get_loss", action, learn)

    def around_backward(self, learn: Learner, action: Callable[[], object]) -> None:
        """Do it, where the step was not made yet."""
        self._do("backward", action, learn)

    def around_step(self, learn: Learner, action: Callable[[], object]) -> None:
        """Do it, where the step was not made yet."""
        self._do("step", action, learn)

    def around_zero_grad(self, learn: Learner, action: Callable[[], object]) -> None:
        """Do it, where the step was not made yet."""
        self._do("zero_grad", action, learn)

    def _do(self, name: str, action: Callable[[], object], learn: Learner) -> None:
        if not learn.training:
            action()
        elif not self._is_done:
            self._actions[name] = action
            action()

    def _step(self) -> None:
        self._forward_to_step()
        self._actions["zero_grad"]()

    def _forward_to_step(self) -> None:
        for name in ("predict", "get_loss", "backward", "step"):
            self._actions[name]()

    # -- the graph ---------------------------------------------------------------------------------------------

    def _replay_step(self, learn: Learner) -> None:
        if self._replay is None:
            self._record(learn)
        elif (now := _options(learn.opt)) != self._options:
            raise _changed(self._options, now)
        for there, new in zip(self._static, tensors_of((learn.xb, learn.yb)), strict=True):
            there.copy_(new, non_blocking=True)
        self._replay()  # type: ignore[misc]  # recorded now at the latest
        self.n_replayed += 1
        learn.output, learn.preds, learn.loss = cloned(self._made)  # the next replay writes there again

    def _record(self, learn: Learner) -> None:
        device = next(learn.model.parameters()).device
        for group in learn.opt.param_groups:  # type: ignore[union-attr]  # there is one while training
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)  # a number would be frozen
        inputs = learn.xb, learn.yb
        learn.xb, learn.yb = cloned(inputs)
        self._static, self._options = tensors_of((learn.xb, learn.yb)), _options(learn.opt)
        learn.log = _no_log  # type: ignore[method-assign]
        try:
            self._replay = self._graphs.record(self._forward_to_step)
        except Exception as error:
            error.add_note("CompileCallback(step=True) was recording the step as one CUDA graph; leave `step` out.")
            raise
        finally:
            del learn.log
        self._made = detached((learn.output, learn.preds, learn.loss))
        learn.xb, learn.yb = inputs
        self._actions["zero_grad"]()  # the gradients of the graph are its own


def _no_log(**values: Any) -> NoReturn:
    raise LearnerError(
        f"`learn.log` must not be called between forward and step with `step=True`, got {', '.join(values)}: a graph "
        f"replays the step without it. Log from `after_batch`, or leave `step` out."
    )


def _key(inputs: Any) -> tuple[Any, ...]:
    """Return what inputs must have in common to be replayed by one graph."""
    tensors = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors_of(inputs))
    return tensors, _skeleton(inputs)


def _skeleton(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, Tensor):
        return Tensor
    if kind in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return kind, {key: _skeleton(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return kind, [_skeleton(item) for item in value]
    return object()  # is like no other


def _options(opt: Any) -> list[dict[str, Any]]:
    """Return the settings that a graph freezes: numbers and flags, but no tensors."""
    return [
        {name: value for name, value in group.items() if name != "params" and not isinstance(value, Tensor)}
        for group in opt.param_groups
    ]


def _changed(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> LearnerError:
    names = {name for old, new in zip(before, now, strict=False) for name in old if old[name] != new.get(name)}
    return LearnerError(
        f"settings of the optimizer must stay as they are within a pass with `step=True`, but for `lr`, and "
        f"{', '.join(sorted(names)) or 'the number of groups'} changed: the graph has the old ones. Leave `step` out, "
        f"or let a schedule leave them as they are."
    )
