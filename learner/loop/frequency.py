"""How often and where a callback is called: what its `every` and `loaders` mean, the same for all of them.

A callback that sets neither is called directly and pays nothing. Before the handlers of one that does,
`Dispatch` puts a `Guard`, which asks the callback's `Gate`; that decides once a pass and once a batch, so
all signals of a batch agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from numbers import Integral
from time import monotonic
from typing import Any, NamedTuple

from learner.data.loaders import ROLES
from learner.loop.callbacks import is_first_alone
from learner.loop.types import Learner

_WORDS = re.compile(r"(?:([0-9]+|[0-9]*\.[0-9]+) *)?(batch|batches|step|steps|epoch|epochs|s|min|h)")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


class Every(NamedTuple):
    """An interval: so many batches, optimizer steps, epochs or seconds.

    Example:
        >>> Every.of(10), Every.of("epoch"), Every.of("10 min")
        (Every(n=10, unit='batches'), Every(n=1, unit='epochs'), Every(n=600.0, unit='s'))
    """

    n: float
    unit: str

    @classmethod
    def of(cls, value: Any, name: str = "every", otherwise: str = "leave it out, or None, for always") -> Every:
        """Return the interval that a person means: a number of batches, or such as "2 epochs" or "30 s".

        Args:
            value: None is always, as 1 is.
            name: what to call it in an error.
            otherwise: what else to do, in an error.

        Raises:
            TypeError: if it is neither a whole number nor a string.
            ValueError: if it is less than 1 batch, step or epoch, no time at all, or a string that is none of these.
        """
        ways = "a number of batches, or as '10 batches', '10 steps', 'epoch', '2 epochs', '30 s', '10 min' or '1 h'"
        problem = f"`{name}` must be {ways}, got {value!r}; {otherwise}."
        if value is None:
            return cls(1, "batches")
        if isinstance(value, bool) or not isinstance(value, Integral | str):
            raise TypeError(problem)
        words = _WORDS.fullmatch(value.strip() if isinstance(value, str) else f"{int(value)} batches")
        if words is None:
            raise ValueError(problem)
        number, word = words[1] or "1", words[2]
        if word in _SECONDS:
            every = cls(float(number) * _SECONDS[word], "s")
        elif number.isdecimal():
            every = cls(int(number), next(unit for unit in ("batches", "steps", "epochs") if unit.startswith(word)))
        else:
            raise ValueError(problem)
        if every.n <= 0:
            raise ValueError(problem)
        return every

    @property
    def is_always(self) -> bool:
        """Whether nothing is left out."""
        return self.n == 1 and self.unit in ("batches", "epochs")


class Pace:
    """Tells for one batch after the other whether it is due: the n-th, 2n-th, … or after so many steps or seconds.

    Intervals in epochs are the business of whoever knows which epoch it is: no batch is due by them.

    Example:
        >>> pace = Pace(Every.of(3))
        >>> [pace.tick() for _ in range(7)]
        [False, False, True, False, False, True, False]
    """

    def __init__(self, every: Every) -> None:
        self.every = every
        self.restart()

    def restart(self, n_steps: int = 0) -> None:
        """Count from here; `n_steps` optimizer steps were made so far."""
        self._n, self._start = n_steps if self.every.unit == "steps" else 0, monotonic()

    def tick(self, n_steps: int = 0) -> bool:
        """Count a batch; return whether it is due.

        Args:
            n_steps: optimizer steps that will have been made when the batch is done.
        """
        if self.every.unit == "batches":
            self._n += 1
            is_due = self._n >= self.every.n
        elif self.every.unit == "steps":
            is_due = n_steps - self._n >= self.every.n
        else:
            is_due = self.every.unit == "s" and monotonic() - self._start >= self.every.n
        if is_due:
            self.restart(n_steps)
        return is_due

    def state_dict(self) -> dict[str, float]:
        """Return how far the count is, so that a sandbox can put it back."""
        return {"n": self._n, "seconds": monotonic() - self._start}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Count on from a state."""
        self._n, self._start = int(state["n"]), monotonic() - state["seconds"]


def expected_steps(learn: Learner) -> int:
    """Return how many optimizer steps will have been made when this batch is done, if it goes well."""
    will_step = learn.training and not learn._has_stepped and (learn.i + 1) % learn.batches_per_step == 0
    return learn.n_steps + will_step


class Decision:
    """What a gate has decided for a pass and for its present batch; the learner keeps it with the pass."""

    __slots__ = ("i", "is_batch_open", "is_pass_open")

    def __init__(self, is_pass_open: bool) -> None:
        self.is_pass_open, self.i, self.is_batch_open = is_pass_open, -1, False


class Guard:
    """A handler that hands a signal on while its gate is open."""

    __slots__ = ("condition", "is_open", "method")

    def __init__(self, method: Callable[..., Any], is_open: Callable[[Learner], bool], condition: str) -> None:
        self.method, self.is_open, self.condition = method, is_open, condition

    def __call__(self, learn: Learner) -> None:
        """Hear a signal, or not."""
        if self.is_open(learn):
            self.method(learn)

    def around(self, learn: Learner, action: Callable[[], object]) -> None:
        """Wrap an action while the gate is open, else just do it."""
        if self.is_open(learn):
            self.method(learn, action)
        else:
            action()


class Gate:
    """Decides when a callback is called, by its `every` and `loaders`.

    Batches are counted as they are heard: one that ended before any signal of this callback came is not counted.

    Args:
        cb: a callback that sets one of the two.

    Raises:
        TypeError, ValueError: if one of them means nothing.
    """

    def __init__(self, cb: Any) -> None:
        self._owner = type(cb).__name__
        every = getattr(cb, "every", None)
        self.every = Every.of(every, f"{self._owner}.every")
        self.patterns = _checked_patterns(getattr(cb, "loaders", None), f"{self._owner}.loaders")
        self.pace = Pace(self.every)
        self._is_first_alone = is_first_alone(cb)
        self._words = () if self.every.is_always else (f"every {every}",)

    @property
    def is_always_open(self) -> bool:
        """Whether there is nothing to decide."""
        return self.every.is_always and not self.patterns

    def means_the_same(self, other: Gate | None) -> bool:
        """Return whether another gate asks for the same."""
        return other is not None and (self.every, self.patterns) == (other.every, other.patterns)

    def guard(self, method: Callable[..., Any], *, is_of_epoch: bool = False) -> Callable[..., Any]:
        """Return a handler that listens only while the gate is open, or the same one if that is always.

        Args:
            method: the handler of a signal, or a wrapper of an action.
            is_of_epoch: whether it comes once a pass, where an interval in batches or seconds means nothing.
        """
        if not is_of_epoch and self.every.unit != "epochs" and not self.every.is_always:
            return Guard(method, self.opens_batch, ", ".join((*self._words, *self.patterns)))
        words = self._words if self.every.unit == "epochs" else ()
        if not words and not self.patterns:
            return method
        return Guard(method, self.opens_pass, ", ".join((*words, *self.patterns)))

    def opens_pass(self, learn: Learner) -> bool:
        """Return whether this pass is heard."""
        decision = learn._decisions.get(self) or self._decide_pass(learn)
        return decision.is_pass_open

    def opens_batch(self, learn: Learner) -> bool:
        """Return whether this batch is heard."""
        decision = learn._decisions.get(self) or self._decide_pass(learn)
        if decision.i != learn.i:
            is_due = decision.is_pass_open and self.pace.tick(expected_steps(learn))
            if self.every.unit == "s" and not self._is_first_alone:  # clocks differ
                is_due = learn.job.from_first(partial(bool, is_due), at=f"the clock of {self._owner}")
            decision.i, decision.is_batch_open = learn.i, is_due
        return decision.is_batch_open

    def _decide_pass(self, learn: Learner) -> Decision:
        matches = not self.patterns or any(fnmatchcase(learn.dl_name, pattern) for pattern in self.patterns)
        # A pass that stands on its own was asked for by hand, and is of no round.
        is_due = self.every.unit != "epochs" or not learn._is_fitting or (learn.epoch + 1) % self.every.n == 0
        decision = learn._decisions[self] = Decision(matches and is_due)
        return decision

    def check_loaders(self, names: Iterable[str]) -> None:
        """Refuse a pattern that fits no loader: it is misspelt, and the callback would never be heard of.

        Raises:
            ValueError: naming the loaders that there are.
        """
        names = list(names)
        for pattern in self.patterns:
            # `valid` is a fine pattern where there is no such loader: a callback may be made for any data.
            if not any(fnmatchcase(name, pattern) for name in (*names, *ROLES)):
                raise ValueError(
                    f"`{self._owner}.loaders` must match the name of a loader, got {pattern!r}; there is "
                    f"{', '.join(map(repr, names))}."
                )


def _checked_patterns(loaders: Any, name: str) -> tuple[str, ...]:
    """Return names and patterns of loaders as a tuple, an empty one for all of them."""
    if loaders is None:
        return ()
    patterns = (loaders,) if isinstance(loaders, str) else loaders
    problem = f"`{name}` must be a loader's name or pattern, or a tuple of them, such as 'valid*', got {loaders!r}; "
    if not isinstance(patterns, tuple | list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(problem + "leave it out, or None, for all.")
    if not patterns or "" in patterns:
        raise ValueError(problem + "leave it out, or None, for all.")
    return tuple(patterns)
