"""What the loop asks of the processes that train together; here there is one, which agrees with itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import Any


class Job:
    """A training of one process.

    `learner.ranks.agreement.Ranks` is one of several. The loop asks `learn.job` wherever all of them have to do the
    same, and this one answers at once.

    Attributes:
        rank: which of the processes this is, from 0.
        world: how many there are.
        is_in_shards: whether each of them holds a part of the weights and of their gradients.

    Example:
        >>> job = Job()
        >>> job.gather("mine", at="an example"), job.from_first(lambda: "what the first one has", at="an example")
        (['mine'], 'what the first one has')
    """

    rank, world = 0, 1
    is_in_shards = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    @property
    def can_agree(self) -> bool:
        """Whether all processes are there to be asked: none has failed."""
        return True

    def begin_fit(self, pending: Any) -> None:
        """Begin a fit.

        Args:
            pending: the learner's `Pending`: a signal that has come to this process.
        """

    def end(self) -> None:
        """End a fit, or a pass outside of one: what all have heard of is over with it."""

    # What several processes say in a batch, that none of them goes on alone; `learner.ranks.agreement` is the protocol.

    def begin_batch(self) -> None:
        """Take what comes now for something new, also if the same exception is raised again."""

    def owe(self) -> None:
        """Owe the words of the training batch that comes next."""

    def owe_forward(self) -> None:
        """Owe a word before the forward of the batch that comes next, whether it trains or not: all take part in it."""

    def before_forward(self) -> None:
        """Agree that all call the model."""

    def before_backward(self) -> None:
        """Agree that all have a loss."""

    def before_exchange(self) -> None:
        """Agree that all get to where they exchange something in a batch outside of forward and backward."""

    def before_norm(self) -> None:
        """Agree that all compute something of their gradients as a whole: of what is in shards each sends its part."""

    def before_step(self) -> None:
        """Agree that all make the step."""

    def during_backward(self, is_in: bool) -> None:
        """Say whether a backward runs, or a forward by shards, in which the others wait for what this process sends."""

    def gather(self, mine: Any, at: str) -> list[Any]:
        """Return what all processes give, in order of ranks.

        Args:
            mine: plain data of this process.
            at: where in the program this is, in words. All of them have to be there.

        Raises:
            LearnerError: if a process has failed, or is somewhere else.
            CancelException: if a process has cancelled the pass or the fit.
        """
        return [mine]

    def from_first(self, make: Callable[[], Any], at: str) -> Any:
        """Return what the first process makes, where alone `make` is called; raises as `gather`, and what it raises."""
        return make()

    def compare(self, what: Callable[[], dict[str, dict[str, Any]]], at: str) -> None:
        """Refuse to go on where processes differ in what they have to have in common.

        Args:
            what: returns it, by section and name.
            at: as for `gather`.

        Raises:
            LearnerError: naming a rank and the difference; the same on all of them.
        """

    def tell(self, learn: Any, error: BaseException) -> BaseException:
        """Let the others know what ends a step, a batch, a pass or a fit here; return what ends it for all.

        Args:
            learn: the learner.
            error: a Cancel or an error. It is told once, however often this is called with it.
        """
        return error

    def leading(self) -> AbstractContextManager[None]:
        """Do something in the first process alone, for a block of code; nothing in it may ask the others."""
        return nullcontext()


ALONE = Job()

_is_other = Event()


def join_as_other() -> None:
    """Know from now on that this process is one of several and not the first, which shows and writes for all."""
    _is_other.set()


def is_other_process() -> bool:
    """Tell whether another process of the training shows and writes for this one."""
    return _is_other.is_set()
