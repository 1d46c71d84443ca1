"""What a learner counts and what it measured, as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.loop.types import Learner


def counters(learn: Learner) -> dict[str, Any]:
    """Return what a learner counts and what it measured."""
    return {
        **{name: getattr(learn, name) for name in ("n_steps", "n_skipped", "n_samples", "lr")},
        "history": learn.history.state_dict(),
        "metrics": {name: dict(values) for name, values in learn.metrics.items()},
    }


def put_back_counters(learn: Learner, saved: Mapping[str, Any]) -> None:
    """Take over what `counters` gave."""
    for name in ("n_steps", "n_skipped", "n_samples", "lr"):
        setattr(learn, name, saved[name])
    learn.history.load_state_dict(saved["history"])
    learn.metrics = {name: dict(values) for name, values in saved["metrics"].items()}
