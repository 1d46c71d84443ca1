"""One pass over a loader: how it begins and ends, and what of its batches is counted and averaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from learner.data.batch import describe
from learner.data.limit import describe_limits, limited
from learner.data.loaders import Loaders
from learner.data.wrapper import length_of
from learner.errors import CancelException, LearnerError
from learner.history import Averages
from learner.loop.checks import checked_scalar, no_batches, no_weight, warn_of_length
from learner.loop.tell import tell
from learner.loop.throughput import tell_of_waiting
from learner.loop.types import Learner
from learner.loop.weight import batch_weight

# What belongs to one pass: a pass within a pass (a validation in the middle of an epoch) gives it back.
PASS_STATE = (
    *("dl", "dl_name", "role", "training", "is_side_pass", "i", "n_batches"),
    *("_needs_target", "_averages", "_has_means", "_cut_short", "_modes", "pass_state"),
    *("_n_steps_before", "_n_skipped_before", "_has_dropped", "_has_loss"),
    *("global_batch_size", "global_weight"),
    *("is_in_batch", "batch", "batch_size", "is_mixed", "weight", "xb", "yb", "output", "preds", "loss"),
    *("_is_counting", "_has_stepped", "_logged", "_decisions"),
)


def open_pass(learn: Learner, name: str, dl: Any, role: str, is_side_pass: bool = False) -> None:
    """Begin a pass: say which it is, and forget the one before."""
    learn.dl_name, learn.dl, learn.role, learn.training = name, dl, role, role == "train"
    learn.is_side_pass = is_side_pass
    learn._needs_target = not (name.startswith("infer") or (name.startswith("test") and role == "infer"))
    learn.i, learn.n_batches, learn.batch = 0, length_of(dl), None
    learn._averages, learn._has_means, learn._cut_short = Averages(), False, None
    learn._decisions, learn._modes, learn.pass_state = {}, [], {}
    learn._n_steps_before, learn._n_skipped_before = learn.n_steps, learn.n_skipped
    learn._has_dropped = learn._has_loss = False
    learn._logged = []  # not cleared: the pass around this one may hold it
    learn.xb = learn.yb = learn.output = learn.preds = learn.loss = None
    learn.batch_size, learn.is_mixed, learn.weight = 0, False, None
    learn.global_batch_size = learn.global_weight = None
    learn.is_in_batch = learn._is_counting = learn._has_stepped = False


def close_pass(learn: Learner) -> None:
    """Read the means of a pass that went well."""
    if learn.batch is None and not learn.i:
        raise no_batches(learn)
    was_stopped = learn.training and learn.n_steps >= learn._last_step
    if learn.batch is not None and learn.n_batches not in (None, learn.i + 1) and not was_stopped:
        warn_of_length(learn)
    learn._is_counting = False
    averages = averages_of_all(learn)
    means = averages.means()
    if len(means) < len(averages):
        raise no_weight(learn)
    learn.metrics[learn.dl_name] = means
    learn._has_means = True
    tell_of_waiting(learn)


def averages_of_all(learn: Learner) -> Averages:
    """Return what was measured in this pass, in all processes that train together."""
    if learn.job.world == 1:
        return learn._averages
    return Averages.joined(learn.job.gather(learn._averages.totals(), "the end of a pass"))


def end_early(learn: Learner, error: BaseException) -> BaseException:
    """Tell what has ended a pass; of a Cancel keep the means of the batches that were seen, and the reason it gives.

    Returns:
        What ends the pass in all processes that train together.
    """
    learn._is_counting = False
    try:
        error = learn.job.tell(learn, error)
        if not isinstance(error, CancelException) or learn._has_means:
            return error
        means = averages_of_all(learn).means()
        reasons = learn.job.gather(str(error), "the reason why a pass ends")
    except Exception as failure:
        return failure
    if means:
        learn.metrics[learn.dl_name] = means
        learn._has_means = True
        learn._cut_short = next(filter(None, reasons), type(error).__name__)
    return error


def record_pass(learn: Learner, name: str) -> None:
    """Put the means of a pass of a fit on record, if it has any, and how fast it was."""
    if learn._has_means:
        learn.history.record(learn.epoch, name, learn.metrics[name], learn._cut_short)
        learn.history.record_throughput(learn.epoch, name, learn.throughput.samples_per_s, learn.throughput.waiting)


def count_batch(learn: Learner) -> None:
    """Take a batch that went well into the counts and averages."""
    if learn.batch_size is None:
        raise LearnerError(
            f"the number of samples in a batch must be known, got {describe(learn.batch)}, whose parts have no first "
            f"axis, or do not agree on it; give the target as one tensor, or set `learn.batch_size` in `predict` or a "
            f"callback."
        )
    weight = learn.batch_size or 1 if learn.weight is None else batch_weight(learn)
    if learn.loss is not None:
        learn._averages.add("loss", learn.loss.detach(), weight)
    for name, value in learn._logged:
        learn._averages.add(name, value, weight)
    learn._is_counting = False
    size = learn.batch_size if learn.global_batch_size is None else learn.global_batch_size
    learn.throughput.n_samples += size
    if learn.training:
        learn.n_samples += size


def log(learn: Learner, /, **values: Tensor | float) -> None:
    """Average values over the pass like the loss, weighted by batch size; they join `metrics` and `history`.

    For use inside `predict`, `get_loss` or a callback. Values of a cancelled batch do not count.

    Raises:
        LearnerError: if no pass is running.
        ValueError: if a value is no scalar, or is named `loss`.
    """
    if not learn._n_passes:
        raise LearnerError("`log` must be called while a pass runs, and none does; there is nothing to average.")
    for name, value in values.items():
        value = checked_scalar(name, value)
        if learn._is_counting:
            learn._logged.append((name, value))
            continue
        learn._averages.add(name, value, learn.batch_size or 1)
        if learn._has_means:  # they have been read already
            learn.metrics[learn.dl_name][name] = averages_of_all(learn).means()[name]


@contextmanager
def one_batch_each(learn: Learner, is_limited: bool) -> Iterator[None]:
    """Have one batch of each loader for a block of code."""
    whole = learn.dls = Loaders.of(learn.dls)
    if is_limited:
        learn.dls = limited(whole, {})
        if not learn.in_sandbox:
            tell(describe_limits(learn.dls))
    try:
        yield
    finally:
        if is_limited:
            learn.dls = whole
