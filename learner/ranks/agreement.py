"""Several processes that do the same: who cancels, fails or is interrupted does so with all, and nobody waits for ever.

Each process says a word before the backward of a training batch and, if asked to, before the step; and wherever all of
them give something to each other, as gradients or the means of a pass: nothing that can fail comes between the word and
what is given. One that does not get there says in its place what has ended its batch, pass or fit. So every word meets
one of each other process, wherever these are, and the largest is obeyed by all. That is the whole protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Literal

from learner.errors import (
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    LearnerError,
    PostponeStepException,
)
from learner.ranks.job import Job
from learner.ranks.talk import Talk, packed, unpacked

Agree = Literal["step", "batch"] | None


class OtherProcessError(LearnerError):
    """Another process of the training has failed, or is gone; its own error says why."""


_FORWARD, _BATCH = "the forward of a batch", "a training batch"  # places within a batch, in words


class Word(IntEnum):
    """What a process says; a larger one outdoes a smaller one."""

    FINE = 0
    INTERRUPT = 1  # a signal has come: all stop when this batch is done
    POSTPONE = 2
    STEP = 3
    BATCH = 4
    EPOCH = 5
    FIT = 6
    ERROR = 7


_CANCELS: dict[Word, type[CancelException]] = {
    Word.POSTPONE: PostponeStepException,
    Word.STEP: CancelStepException,
    Word.BATCH: CancelBatchException,
    Word.EPOCH: CancelEpochException,
    Word.FIT: CancelFitException,
}


def word_of(error: BaseException) -> Word:
    """Return what to say of an exception.

    Example:
        >>> word_of(CancelEpochException()).name, word_of(OSError()).name
        ('EPOCH', 'ERROR')
    """
    return next((word for word, kind in _CANCELS.items() if type(error) is kind), Word.ERROR)


class Ranks(Job):
    """Several processes that train together.

    Args:
        talk: between them.
        agree: when they agree in a training batch: before the backward and before the step, before the backward alone,
            or not at all. Without it, what one of them cancels or fails in leaves the others waiting.

    Attributes:
        n_words: how many words this process has said.
    """

    def __init__(self, talk: Talk, agree: Agree = "step") -> None:
        self.talk, self.agree = talk, agree
        self.rank, self.world = talk.rank, talk.world
        self.n_words = 0
        self._is_owed = False  # whether the others wait for a word of this training batch
        self._is_forward_owed = False  # or for one before the forward, of any batch
        self._is_over = False  # a process has failed, or is gone: nothing more can be agreed on in this fit
        self._is_gone = False  # or ever: one may wait where nothing comes any more
        self._leads = 0  # within a method that only the first process calls
        self._is_in_backward = False
        self._pending: Any = None  # a signal that has come to this process, of the learner that trains
        self._settled: BaseException | None = None  # what was told last, or heard: all know of it

    @property
    def can_agree(self) -> bool:
        """Whether all processes are there to be asked: none has failed."""
        return not self._is_over

    # -- words -----------------------------------------------------------------------------------------------------

    def begin_fit(self, pending: Any) -> None:
        """Begin anew; hold signals back, if all can agree."""
        self.end()
        self._pending = pending
        pending.is_agreed = self.agree is None

    def end(self) -> None:
        """Forget how a fit, or a pass outside of one, has ended, but not that a process is gone."""
        self._is_owed = self._is_forward_owed = self._is_in_backward = False
        self._settled = None
        self._is_over = self._is_gone

    def begin_batch(self) -> None:
        """Take what comes now for something new, also if the same exception is raised again."""
        self._settled = None

    def owe(self) -> None:
        """Owe the words of the training batch that comes next."""
        self._is_owed = self.agree is not None

    def owe_forward(self) -> None:
        """Owe a word before the forward of the batch that comes next, whether it trains or not: all take part in it."""
        self._is_forward_owed = self.agree is not None

    def before_forward(self) -> None:
        """Agree that all call the model."""
        self._is_forward_owed = False
        if self.agree is not None:
            self._say(Word.FINE, _FORWARD)

    def before_backward(self) -> None:
        """Agree that all have a loss."""
        self._is_owed = self._is_owed and self.agree == "step"
        self.before_exchange()

    def before_exchange(self) -> None:
        """Agree that all get to where they exchange something in a batch outside of forward and backward."""
        if self.agree is not None:
            self._say(Word.FINE, _BATCH)

    def before_norm(self) -> None:
        """Agree that all compute something of their gradients as a whole: of what is in shards each sends its part."""
        if self.is_in_shards:
            self.before_exchange()

    def before_step(self) -> None:
        """Agree that all make the step."""
        self._is_owed = False
        if self.agree == "step":
            self._say(Word.FINE, _BATCH)

    def during_backward(self, is_in: bool) -> None:
        """Say whether a backward runs, or a forward by shards, in which the others wait for what this process sends."""
        self._is_in_backward = is_in

    def _say(self, word: Word, at: str, size: int = 0, text: str = "") -> int:
        """Say a word; return the largest size that was said, or raise what another process has said."""
        if self._leads:
            raise LearnerError(
                f"what only the first process does must not need the others, as {at} does: a callback with "
                f"`ranks = 'first'` has asked for it; leave that out."
            )
        if self._is_over:
            raise OtherProcessError(f"{at} must have all processes, but one of them has failed.")
        if word < Word.INTERRUPT and self._pending is not None and self._pending.interrupt is not None:
            word = Word.INTERRUPT
        self.n_words += 1
        try:
            largest, longest, is_one_place = self.talk.word(word, at, size)
            if largest == Word.ERROR:
                raise self._failure(self.talk.texts(text))
            is_elsewhere = not is_one_place and (largest <= Word.INTERRUPT or not self._may_end(Word(largest), at))
            if is_elsewhere:
                raise self._strayed(self.talk.texts(at))
        except RuntimeError as error:
            self._is_over = self._is_gone = True
            raise OtherProcessError(
                f"another process is gone; this is rank {self.rank}. Its own output says why."
            ) from error
        if largest == Word.INTERRUPT and self._pending is not None:
            self._pending.agree()
        if largest > word and largest > Word.INTERRUPT:
            self._is_owed = self._is_forward_owed = False
            self._settled = _CANCELS[Word(largest)]()
            raise self._settled
        return longest

    def _may_end(self, word: Word, at: str) -> bool:
        """Tell whether a Cancel may be heard here: those of a step or a batch only within one."""
        return word >= Word.EPOCH or at in (_FORWARD, _BATCH)

    def _failure(self, texts: list[str]) -> OtherProcessError:
        self._is_over = True
        rank, text = next((rank, text) for rank, text in enumerate(texts) if text)
        self._settled = error = OtherProcessError(f"rank {rank} has failed: {text} (this is rank {self.rank})")
        return error

    def _strayed(self, places: list[str]) -> LearnerError:
        self._is_over = True
        listed = "; ".join(f"rank {rank} is at {place}" for rank, place in enumerate(places))
        self._settled = error = LearnerError(
            f"all processes must do the same, but {listed}. Loaders of different lengths do this, or a callback that "
            f"decides by what its own process has seen; decide by `learn.metrics`, which all have alike."
        )
        return error

    # -- what the loop asks ----------------------------------------------------------------------------------------

    def gather(self, mine: Any, at: str) -> list[Any]:
        """Return what all processes give, in order of ranks."""
        message = packed(mine)
        size = self._say(Word.FINE, at, len(message))
        return [unpacked(one) for one in self.talk.all_of(message, size)]

    def from_first(self, make: Callable[[], Any], at: str) -> Any:
        """Return what the first process makes, or raise on all of them what that has raised."""
        message = b""
        failure: Exception | None = None
        if self.is_first:
            try:
                message = packed(make())
            except Exception as error:
                failure = error
        if failure is not None:
            self._say(Word.FINE, at, 1)
            self.talk.of_first(b"\0", 1)
            self.talk.texts(f"{type(failure).__name__}: {failure}")
            self._settled = failure
            raise failure
        size = self._say(Word.FINE, at, len(message))
        message = self.talk.of_first(message, size)
        if message == b"\0":
            self._settled = OtherProcessError(f"rank 0 has failed: {self.talk.texts('')[0]}")
            raise self._settled
        return unpacked(message)

    def compare(self, what: Callable[[], dict[str, dict[str, Any]]], at: str) -> None:
        """Refuse to go on where processes differ in what they have to have in common."""
        mine = what()
        brief = self.gather({section: hash_of(values) for section, values in mine.items()}, at)
        differing = [section for section in brief[0] if any(one.get(section) != brief[0][section] for one in brief)]
        if not differing:
            return
        section = differing[0]
        first, *others = self.gather(mine.get(section), at)
        rank = next(rank for rank, other in enumerate(others, 1) if other != first)
        self._settled = LearnerError(
            f"all processes must have the same {section}, but {_first_difference(first, others[rank - 1], rank)}; "
            f"make them from the same script with the same seed."
        )
        raise self._settled

    def tell(self, learn: Any, error: BaseException) -> BaseException:
        """Let the others know what ends a step, a batch, a pass or a fit here; return what ends it for all."""
        if self._is_over or error in (self._settled, learn.interrupt):
            return error
        if self._is_in_backward:  # the others wait for tensors, and hear nothing but the end of this process
            self._is_over = self._is_gone = True
            return error
        word = word_of(error)
        is_of_batch = word <= Word.BATCH
        if is_of_batch and not (self._is_forward_owed or (learn.training and self._is_owed)):
            return error  # what this process alone leaves out: a share of a batch that does not train, or is done
        self._is_owed = self._is_forward_owed = False
        self._settled = error
        text = f"{type(error).__name__}: {error}" if word == Word.ERROR else ""
        at = _BATCH if is_of_batch else "the end of a batch, a pass or a fit"
        try:
            self._say(word, at, text=text)
        except BaseException as heard:
            if word == Word.ERROR:  # its own error is what counts
                self._settled = error
                return error
            return heard
        return error

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Do something in the first process alone, for a block of code; nothing in it may ask the others."""
        self._leads += 1
        try:
            yield
        finally:
            self._leads -= 1


def hash_of(values: dict[str, Any]) -> str:
    """Return a short text that is the same for the same values, on any machine."""
    return blake2b(repr(sorted(values.items())).encode(), digest_size=16).hexdigest()


def _first_difference(first: dict[str, Any] | None, other: dict[str, Any] | None, rank: int) -> str:
    first, other = first or {}, other or {}
    for name in dict.fromkeys((*first, *other)):
        mine, theirs = first.get(name, "missing"), other.get(name, "missing")
        if mine != theirs:
            return f"{name} is {mine} on rank 0, {theirs} on rank {rank}"
    return f"they come in another order on rank {rank}"
