"""What is trained and how, and how a fit ended, as plain data for those who write it down."""

from __future__ import annotations

from typing import Any

from learner import CancelFitException, Learner
from learner.data.wrapper import length_of
from learner.optim.several import kind_of


def describe_fit(learn: Learner) -> dict[str, Any]:
    """Return what is trained and how, as plain data."""
    parameters = list(learn.model.parameters())
    loss_f, opt = learn.loss_f, learn.opt
    return {
        "model": type(learn.model).__name__,
        "n_parameters": sum(p.numel() for p in parameters),
        "device": ", ".join(dict.fromkeys(str(p.device) for p in parameters)) or "cpu",
        "n_trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "loss": None if loss_f is None else getattr(loss_f, "__name__", type(loss_f).__name__),
        "optimizer": None if opt is None else kind_of(opt),
        "lr": [float(group["lr"]) for group in opt.param_groups] if opt else [],
        "n_epochs": learn.n_epochs,
        "steps": learn.steps,
        "n_batches": {name: length_of(dl) for name, dl in learn.dls.items()},
        "callbacks": [type(cb).__name__ for cb in learn.cbs],
    }


def describe_end(error: BaseException | None) -> dict[str, str]:
    """Return how a fit ended: its `status`, and the `error` of one that failed.

    Args:
        error: what ended it, `learn.ended_by`.

    Example:
        >>> describe_end(None), describe_end(KeyError("x"))
        ({'status': 'finished'}, {'status': 'failed', 'error': "KeyError: 'x'"})
    """
    if error is None or isinstance(error, CancelFitException):
        return {"status": "finished"}
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return {"status": "interrupted"}
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
