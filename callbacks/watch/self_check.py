"""Run a step twice now and then, and compare the bits: faults of hardware, operations that are not repeatable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from callbacks.watch.rewind import Rewind
from learner import Callback, Learner
from learner.data.generators import remember_rng
from learner.data.moving import tensors_of
from learner.data.numbers import whole_number
from learner.interrogate.hooks import Tap, can_be_hooked
from learner.interrogate.layers import named_layers
from learner.loop.closure import evaluate_again, first_forward_kept
from learner.loop.state import remember
from learner.loop.trainable import named_parameters

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size [bytes]
_WHY = (
    "Operations that add up in any order do that (`torch.use_deterministic_algorithms(True)` refuses them), a layer "
    "that draws from a generator of its own, or hardware that is broken: if it comes again with those operations "
    "refused, on one machine alone, take that machine out."
)


class Fault(NamedTuple):
    """A batch that gave other bits when it ran again.

    Attributes:
        n_steps: optimizer steps that were made before it.
        epoch, i: where it was.
        what: what differs first: `output of` a module, or `gradient of` a parameter.
    """

    n_steps: int
    epoch: int
    i: int
    what: str


class SelfCheckCallback(Callback):
    """Run forward and backward of a step again, from the same state, and compare them bit by bit before the step.

    Where they differ, a warning names the first module whose output is another one, or, where all outputs are the same,
    the last parameter, for the backward pass begins at the end. The training goes on with the first run, and the
    random generators and buffers are as it has left them: nothing changes by the check. It costs a forward and a
    backward pass for each time, and waits for the device then.

    `after_predict` and `after_loss` come again in the second run, as in a closure of L-BFGS; what is logged and counted
    there counts once, but for what hooks of one's own on modules count. Of a compiled model the gradients alone are
    compared, for it calls no hooks.

    Args:
        every: how often, in the words of any callback's `every`.
        repeats: how often a batch is run again.

    Attributes:
        faults: what differed, a `Fault` each.
        n_checked: batches that were run again in this fit.

    Raises:
        TypeError, ValueError: if `repeats` is not a whole number of at least 1; if `every` is not an interval.

    Example:
        >>> from learner import Loaders
        >>> x = torch.randn(40, 3)
        >>> dls = Loaders.from_arrays(train=(x, x[:, :1]), batch_size=4)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        >>> check = SelfCheckCallback(every=5)
        >>> Learner(model, dls, torch.nn.functional.mse_loss, cbs=check).fit(2)
        >>> check.n_checked, check.faults
        (4, [])
    """

    order = -60  # around all that others do to a loss and its gradients
    is_observer = True
    loaders = "train*"

    def __init__(self, every: int | str = "500 steps", repeats: int = 1) -> None:
        self.every = every
        self.repeats = whole_number(repeats, "repeats")
        if self.repeats < 1:
            raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
        self.faults: list[Fault] = []
        self.n_checked = 0
        self._run: _Run | None = None  # of the batch that is checked, until its backward pass is done
        self._is_due = False

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        self.faults, self.n_checked, self._run = [], 0, None

    def before_batch(self, learn: Learner) -> None:
        """Know that the batch is to be checked; this comes for those alone."""
        self._run, self._is_due = None, learn.training

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Store the state before the first forward pass, and what modules give in it."""
        if not self._is_due:
            action()
            return
        self._is_due, self._run = False, _Run(learn, [cb for cb in learn.cbs if cb is not self])
        with self._run.watched(learn):
            action()

    def around_backward(self, learn: Learner, action: Callable[[], None]) -> None:
        """Run both again when the gradients are there, and compare."""
        action()
        if self._run is None:
            return
        run, self._run = self._run, None
        self.n_checked += 1
        for what in filter(None, (run.again(learn) for _ in range(self.repeats))):
            fault = Fault(learn.n_steps, learn.history.state_dict()["start"] + learn.epoch, learn.i, what)
            self.faults.append(fault)
            warnings.warn(
                f"batch {fault.i} of epoch {fault.epoch} must give the same bits when it is run again, but the {what} "
                f"differs. {_WHY}",
                RuntimeWarning,
                stacklevel=2,
            )

    def cleanup_batch(self, learn: Learner) -> None:
        """Let go of a batch that ended early."""
        self._run, self._is_due = None, False

    def state_dict(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {"faults": [list(fault) for fault in self.faults], "n_checked": self.n_checked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.faults, self.n_checked = [Fault(*fault) for fault in state["faults"]], state["n_checked"]

    def join_parts(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what `state_dict` would give of several parts of a training, of what it gives of each."""
        return {
            "faults": [fault for state in states for fault in state["faults"]],
            "n_checked": sum(state["n_checked"] for state in states),
        }


class _Run:
    """The state before a forward pass, and what modules gave in it.

    Args:
        learn: the learner.
        others: callbacks that count batches in a forward or backward pass, as an open window does.
    """

    def __init__(self, learn: Learner, others: list[Any]) -> None:
        self._others = others
        self._before = Rewind(learn.model)
        self._before.keep(learn)
        self._put_back_before = self._remember(learn)
        self._gradients = _copies(learn)  # of a window that is open
        self._outputs: list[tuple[str, Tensor]] = []

    @contextmanager
    def watched(self, learn: Learner) -> Iterator[None]:
        """Take down a number of the bits that each module gives; nothing waits for the device."""
        self._outputs = []
        with ExitStack() as stack:
            for name, module in named_layers(learn.model).items():
                if can_be_hooked(module):
                    stack.callback(Tap(module, None, partial(self._take, name or type(module).__name__)).remove)
            yield

    def _take(self, name: str, output: Any) -> None:
        self._outputs += [(name, _number_of(tensor)) for tensor in tensors_of(output)]

    def again(self, learn: Learner) -> str | None:
        """Run the batch again; return what differs first, or None. The learner is as the first run has left it."""
        first, outputs = {name: p.grad for name, p in named_parameters(learn).items()}, self._outputs
        after, put_back_after = Rewind(learn.model), self._remember(learn)
        after.keep(learn)
        try:
            self._before.restore(learn)
            self._put_back_before()
            self._before.restore_buffers()
            _set(learn, {name: None if grad is None else grad.clone() for name, grad in self._gradients.items()})
            with first_forward_kept(learn), self.watched(learn):
                evaluate_again(learn)
            return _difference(outputs, self._outputs) or _gradient_difference(learn, first)
        finally:
            self._outputs = outputs
            _set(learn, first)
            after.restore(learn)
            after.restore_buffers()
            put_back_after()

    def _remember(self, learn: Learner) -> Callable[[], None]:
        """Take down generators, and what callbacks hold; return what puts all of it back."""
        parts = [
            remember_rng(),
            remember(learn.pass_state),
            *(remember(vars(cb)) for cb in self._others if hasattr(cb, "__dict__")),
        ]

        def put_back() -> None:
            for part in parts:
                part()

        return put_back


def _copies(learn: Learner) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in named_parameters(learn).items()}


def _set(learn: Learner, gradients: dict[str, Tensor | None]) -> None:
    for name, p in named_parameters(learn).items():
        p.grad = gradients[name]


def _number_of(tensor: Tensor) -> Tensor:
    """Return a whole number that is another one, as good as surely, if a bit of a tensor is."""
    tensor = tensor.detach()
    if tensor.is_nested or tensor.layout is not torch.strided:  # these are seen by what comes of them
        return torch.zeros((), dtype=torch.int64)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)


def _difference(first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> str | None:
    """Return the first output that differs, in words."""
    if [name for name, _ in first] != [name for name, _ in second]:
        return "order in which modules run"
    if not first:
        return None
    device = first[-1][1].device
    numbers = [torch.stack([number.to(device) for _, number in run]) for run in (first, second)]
    unlike = (numbers[0] != numbers[1]).nonzero().flatten().tolist()  # the one place that waits for the device
    return f"output of `{first[unlike[0]][0]}`" if unlike else None


def _gradient_difference(learn: Learner, first: dict[str, Tensor | None]) -> str | None:
    """Return the last parameter whose gradient differs, in words."""
    for name, p in reversed(named_parameters(learn).items()):
        one = first[name]
        if (one is None) != (p.grad is None) or (one is not None and not _is_same(one, p.grad)):
            return f"gradient of `{name}`"
    return None


def _is_same(one: Tensor, other: Any) -> bool:
    """Tell whether two gradients have the same bits; NaN is the same as NaN."""
    if one.layout is not torch.strided:
        one, other = one.to_dense(), other.to_dense()
    bits = [tensor.contiguous().view(_BITS[tensor.element_size()]) for tensor in (one, other)]
    return torch.equal(*bits)
