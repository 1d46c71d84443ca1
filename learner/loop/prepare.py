"""Be ready to train: the callbacks as they are now, an optimizer of this model, its learning rate."""

from __future__ import annotations

from learner.data.loaders import role_of
from learner.errors import LearnerError
from learner.loop.checks import checked_optimizer, checked_trainable, warn_of_sum
from learner.loop.passes import open_pass
from learner.loop.rates import BaseRates
from learner.loop.types import Learner


def prepare_training(learn: Learner, lr: float) -> None:
    """Be ready to train: callbacks, optimizer, learning rate."""
    open_pass(learn, "", (), "train")  # forgets what an error has left to be looked at
    learn._lr_of_fit = lr
    learn._set_callbacks(list(learn.cbs))  # `every` and the like may have been set since they were added
    learn._dispatch.check_loaders(learn.dls)
    learn._dispatch.restart()
    if not any(role_of(name) == "train" for name in learn.dls):
        raise LearnerError(f"`dls` must hold a loader whose name starts with 'train', got {list(learn.dls)}; add one.")
    trainable = checked_trainable(learn.model)
    if learn.opt is None:
        learn.opt = checked_optimizer(learn.opt_func(list(learn.model.parameters()), lr=lr), trainable)
        learn.rates = BaseRates(learn.opt, lr)
    checked_optimizer(learn.opt, trainable)
    if learn.rates is None or learn.rates.opt is not learn.opt:  # somebody's own
        learn.rates = BaseRates(learn.opt, float(learn.opt.param_groups[0]["lr"]))
    learn.rates.start_from(lr)
    learn.predictor.begin_fit()
    warn_of_sum(learn.loss_f)
    learn.history.begin_fit()
