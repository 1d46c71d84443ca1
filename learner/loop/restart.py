"""Another start of a fit, from a checkpoint, that a callback has asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from learner.errors import RestartFitException
from learner.loop.types import Learner


class Restart(AbstractContextManager["Restart"]):
    """Note at the end of a fit whether a callback has asked for another one, and what it is to go on from.

    Attributes:
        find: returns the checkpoint; None if nobody has asked.

    Example:
        >>> with Restart() as restart:
        ...     raise RestartFitException(lambda: "a checkpoint")
        >>> restart.find()
        'a checkpoint'
    """

    find: Callable[[], Any] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, RestartFitException):
            self.find = error.find
        return self.find is not None

    def go_on(self, learn: Learner, **options: Any) -> None:
        """Fit again, from the checkpoint, if that was asked for; `options` are those of the fit that has ended."""
        if self.find is not None:
            learn.fit(**options, resume=self.find())
