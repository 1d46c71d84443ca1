"""The one place that names `Learner` below it, for annotations alone: nothing is imported at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learner.learner import Learner as Learner
else:
    Learner = Any

Handler = Callable[["Learner"], object]
