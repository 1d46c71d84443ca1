"""Be ready to train: the callbacks as they are now, an optimizer of this model, its learning rate."""

from __future__ import annotations

from functools import partial

from torch import nn

from learner.data.loaders import role_of
from learner.data.wrapper import length_of
from learner.errors import CancelException, CancelStepException, LearnerError, PostponeStepException
from learner.loop.alike import what_must_be_alike
from learner.loop.checks import warn_of_sum
from learner.loop.diagnose import annotate
from learner.loop.dispatch import bind_actions
from learner.loop.passes import open_pass
from learner.loop.rates import BaseRates
from learner.loop.state import set_mode
from learner.loop.steps import step_watch
from learner.loop.surroundings import refuse_autocast, warn_of_processes
from learner.loop.trainable import named_parameters, other_parameters, take_stock
from learner.loop.types import Learner


def prepare_training(learn: Learner, lr: float | None) -> None:
    """Be ready to train: callbacks, optimizer, learning rate; without one, rates are as the optimizer was made."""
    refuse_autocast()
    warn_of_processes(learn)
    open_pass(learn, "", (), "train")  # forgets what an error has left to be looked at
    learn._lr_of_fit = learn.lr if lr is None else lr
    learn._set_callbacks(list(learn.cbs))  # `every` and the like may have been set since they were added
    learn._dispatch.check_loaders(learn.dls)
    learn._dispatch.restart(learn.n_steps)
    if not any(role_of(name) == "train" for name in learn.dls):
        raise LearnerError(f"`dls` must hold a loader whose name starts with 'train', got {list(learn.dls)}; add one.")
    learn.job.compare(partial(what_must_be_alike, learn), at="the beginning of a fit")
    take_stock(learn)
    for parameter in (*named_parameters(learn).values(), *other_parameters(learn, learn.opt)):
        parameter.grad = None  # somebody may have tried something out
    rates: BaseRates = learn.rates  # type: ignore[assignment]  # it has just been made
    rates.start_from(rates.asked_for(lr, learn.lr))
    learn._is_lr_asked, learn._watch = lr is not None, step_watch(learn)
    learn.predictor.begin_fit()
    warn_of_sum(learn.loss_f)
    learn.history.begin_fit()


def settle_pass(learn: Learner) -> None:
    """Look at what callbacks have put in place in `before_epoch`: loader, model, and what is trained."""
    learn.n_batches = length_of(learn.dl)
    if any(vars(learn).get(action) is not bound for action, bound in learn._bound.items()):
        bind_actions(learn)  # somebody has set one by hand: callbacks go on wrapping it
    if learn.model is not learn.predictor.model:
        learn._tell_predictor()
        set_mode(learn.model, learn._modes, training=learn.training)
    learn._n_steps_before, learn._n_skipped_before = learn.n_steps, learn.n_skipped
    if learn.training:
        try:
            take_stock(learn)
        except Exception as error:
            annotate(error, learn, "the beginning of a pass")
            raise
        if learn._watch is not None:
            learn._watch.follow(learn.opt)  # type: ignore[arg-type]  # there is one while training
        learn.rates.take_new_groups()  # type: ignore[union-attr]  # there is one while training


def end_training(learn: Learner) -> None:
    """Let no stale gradient meet the next fit; take down where the rates are; let processes forget how it has ended."""
    learn.job.end()
    clear_gradients(learn)
    learn._evaluation = None
    if learn.rates is not None:
        learn.rates.end_fit()
    if learn._watch is not None:
        learn._watch.close()
        learn._watch = None


def clear_gradients(learn: Learner) -> None:
    """Let no stale gradient meet the next step, in the optimizer or not."""
    learn.model.zero_grad()
    if isinstance(learn.loss_f, nn.Module):
        learn.loss_f.zero_grad()
    if learn.opt is not None:
        learn.opt.zero_grad()


def drop_batch(learn: Learner, cancel: CancelException) -> BaseException:
    """Leave no gradient of a training batch that is cancelled, nor of its window; return what ends it for all."""
    reason = learn.job.tell(learn, cancel)
    if learn.training:
        learn._has_dropped = True
        clear_gradients(learn)
    return reason


def skip_step(learn: Learner, cancel: CancelStepException, has_gradients: bool) -> None:
    """Leave no gradient of a step that is left out, and count it if it was due; one that is put off keeps them.

    Raises:
        CancelException, LearnerError: if another process that trains along has ended more than this step.
    """
    reason = learn.job.tell(learn, cancel)
    if reason is not cancel and not isinstance(reason, CancelStepException):
        raise reason
    if not learn.training or isinstance(cancel, PostponeStepException):
        return
    if has_gradients:
        clear_gradients(learn)
    if has_gradients or learn.batches_per_step == 1:  # else the batch is left out of its window, which goes on
        learn.n_skipped += 1
