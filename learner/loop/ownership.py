"""What of the shared state belongs to the loop: looked at when a `before_` handler returns, so no batch pays for it."""

from __future__ import annotations

from typing import Any

from learner.errors import LearnerError
from learner.loop.types import Learner

# Attributes that the loop writes itself and goes on with, and what a callback can do in their place. What may be
# replaced, and in which signal, is said in the docstrings of `Callback`: epochs, dl, batch, and model, opt, loss_f.
OWNED = {
    "metrics": "write `learn.metrics[name][metric]`, or use `learn.log`",
    "history": "keep records of your own in an attribute of the callback",
    "n_epochs": "replace `learn.epochs` in `before_fit`",
    "steps": "end the fit with `raise CancelFitException`",
    "epoch": "replace `learn.epochs` in `before_fit`",
    "dl_name": "replace `learn.dl` in `before_epoch`, or use `learn.validate` for another loader",
    "role": "use `learn.validate` for a pass that does not train",
    "training": "use `learn.validate` for a pass that does not train, or `loaders` of the callback",
}


def owned_state(learn: Learner) -> list[Any]:
    """Return the values of what the loop owns, for `check_owned`."""
    return [getattr(learn, name) for name in OWNED]


def check_owned(learn: Learner, before: list[Any], handler: str) -> None:
    """Refuse a replacement that the loop would ignore or break on.

    Args:
        learn: the learner.
        before: `owned_state`, from before the handler was called.
        handler: its name.

    Raises:
        LearnerError: naming handler, attribute and what to do.
    """
    for (name, cure), then in zip(OWNED.items(), before, strict=True):
        now = getattr(learn, name)
        if now is not then:
            raise LearnerError(
                f"`learn.{name}` must be left to the loop, got a {type(now).__name__} from {handler}; {cure}."
            )


def set_too_early(learn: Learner, handler: str) -> LearnerError:
    """Return the error for `xb` or `yb` that was set before the loop takes them from the batch."""
    name = "xb" if learn.xb is not None else "yb"
    return LearnerError(
        f"`learn.{name}` must not be set in {handler}, for it is taken from `learn.batch` next; replace `learn.batch`."
    )
