"""An error of one process, wherever it comes, ends all of them at once: nobody waits for what does not come any more.

Gradients, buffers, norms and the wrappers of torch are exchanged beside the words that processes say. Who fails before
one of these exchanges has to be heard by those who are about to enter it.
"""

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    DistributedCallback,
    MixedPrecisionCallback,
    SAMCallback,
    ShardCallback,
)
from learner import Callback, CancelStepException, Learner
from tests.ranks import TIMEOUT, error_of, in_each, weights

LIMIT = TIMEOUT / 2  # [s] for a fit of five batches: who waits in vain takes twice as long
EARLY, BETWEEN, LATE = -95, -60, 0  # before the callback of the processes; before those that need all gradients; after


class OwnForward(Callback):
    """Call the model by another way than the learner's own, around which there is no wrapper of torch."""

    def predict(self, learn):
        learn.preds = learn.model(learn.xb)


class Weigh(Callback):
    """Say what the loss is a mean over."""

    def after_loss(self, learn):
        learn.weight = float(len(learn.yb))


class Act(Callback):
    """Do something in one process, at one place in one batch, when it comes there for the first or the second time."""

    def __init__(self, place, order, batch, rank, act, time=1):
        self.order, self.batch, self.rank, self.act, self.times_left = order, batch, rank, act, time
        setattr(self, place, self._around if place.startswith("around_") else self._at)

    def _at(self, learn):
        if (learn.i, learn.job.rank) == (self.batch, self.rank):
            self.times_left -= 1
            if not self.times_left:
                self.act(learn)

    def _around(self, learn, action):
        self._at(learn)
        action()


def fail(learn):
    raise RuntimeError("on purpose")


def cancel(learn):
    raise CancelStepException


def weigh_badly(learn):
    learn.weight = -1.0


def shards(*cbs, **options):
    return [ShardCallback(["0"], timeout=TIMEOUT, **options), *cbs]


def whole(*cbs):
    return [DistributedCallback(timeout=TIMEOUT), *cbs]


# What is trained with, as each exchanges something at other places.
KINDS = {
    "gradients": whole,
    "buffers": whole,
    "weights of losses": lambda: whole(Weigh()),
    "an own forward": lambda: whole(OwnForward()),
    "a window": lambda: whole(AccumulateCallback(2)),
    "two gradients a step": lambda: whole(SAMCallback()),
    "shards, clipped": lambda: shards(ClipGradientCallback(1.0)),
    "shards, clipped, a word a batch": lambda: shards(ClipGradientCallback(1.0), agree="batch"),
    "shards, scaled": lambda: shards(MixedPrecisionCallback("fp16", init_scale=2.0)),
    "shards, two gradients a step": lambda: shards(SAMCallback(max_norm=1.0)),
}
# Where one process fails: place, order, batch, rank. The wrapper of torch is made before the first batch of a fit, and
# orders its exchange anew before the second.
PLACES = [
    ("before_fit", EARLY, 0, 1),
    ("before_batch", LATE, 0, 1),
    ("before_batch", LATE, 1, 0),
    ("before_batch", LATE, 3, 0),
    ("after_loss", BETWEEN, 0, 1),
    ("around_backward", EARLY, 1, 0),
    ("after_backward", EARLY, 3, 1),
    ("after_backward", BETWEEN, 1, 1),
    ("around_step", BETWEEN, 3, 1),
    ("after_epoch", BETWEEN, 4, 1),
]
# Where nothing is exchanged that not all kinds exchange.
EVERYWHERE = [
    ("before_epoch", LATE, 0, 0),
    ("before_batch", EARLY, 0, 0),
    ("around_predict", EARLY, 1, 0),
    ("after_predict", LATE, 3, 1),
    ("after_backward", LATE, 3, 0),
    ("after_step", EARLY, 1, 0),
    ("cleanup_batch", LATE, 4, 1),
]
# Of two gradients a step, the second; of the weight of a loss, a bad one.
MORE = {
    "gradients": [(*place, fail) for place in EVERYWHERE],
    "two gradients a step": [("after_predict", LATE, 3, 0, fail, 2), ("around_backward", EARLY, 3, 1, fail, 2)],
    "shards, two gradients a step": [("around_predict", EARLY, 3, 0, fail, 2), ("after_loss", LATE, 3, 1, fail, 2)],
    "weights of losses": [("after_loss", LATE, 3, 1, weigh_badly)],
}


def fit(kind, *what):
    torch.manual_seed(0)
    x = torch.randn(36, 4)  # five batches, so the last window holds one
    norms = [nn.BatchNorm1d(4)] if kind == "buffers" else []
    model = nn.Sequential(nn.Linear(4, 4), *norms, nn.Linear(4, 1))
    dls = {"train": DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8)}
    learn = Learner(model, dls, mse_loss, 0.01, cbs=[*KINDS[kind](), Act(*what)])
    start = time.perf_counter()
    return error_of(learn.fit, 1), time.perf_counter() - start, learn


def fail_everywhere():
    DistributedCallback(timeout=TIMEOUT)  # the job, in which all of this is
    ends = {}
    for kind in KINDS:
        for what in [*((*place, fail) for place in PLACES), *MORE.get(kind, [])]:
            ends[kind, what] = fit(kind, *what)[:2]
    return [(kind, what, *end) for (kind, what), end in ends.items()]


@pytest.fixture(scope="module")
def ends():
    return in_each(2, fail_everywhere)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_one_process_ends_all(ends, kind):
    own = {fail: "RuntimeError: on purpose", weigh_badly: "LearnerError: `learn.weight` must be one finite number"}
    n = 0
    for both in zip(*ends, strict=True):
        its_kind, what, _, _ = both[0]
        if its_kind != kind:
            continue
        n += 1
        rank, said = what[3], own[what[4]]
        (_, _, error, seconds), (_, _, others, others_seconds) = both[rank], both[1 - rank]
        assert error.startswith(said), what
        assert others.startswith(f"OtherProcessError: rank {rank} has failed: {said}"), what
        assert max(seconds, others_seconds) < LIMIT, what
    assert n >= len(PLACES)


def leave_out_everywhere():
    DistributedCallback(timeout=TIMEOUT)
    found = {}
    for kind in ("an own forward", "a window", "shards, clipped", "shards, scaled"):
        error, _, learn = fit(kind, "after_backward", BETWEEN, 3, 1, cancel)
        found[kind] = error, learn.n_steps, learn.n_skipped
        if "shards" not in kind:
            found[f"weights of {kind}"] = weights(learn).tolist()
    return found


def test_a_step_that_one_leaves_out_before_all_gradients_are_needed_all_leave_out():
    first, second = in_each(2, leave_out_everywhere)
    assert first == second
    assert first["an own forward"] == first["shards, clipped"] == first["shards, scaled"] == (None, 4, 1)
    assert first["a window"] == (None, 2, 1)


def leave_out_unsaid():
    return fit("shards, clipped, a word a batch", "after_backward", BETWEEN, 3, 1, cancel)[0]


def test_a_step_that_one_leaves_out_unsaid_where_others_need_its_gradients_is_an_error_not_a_wait():
    said = "LearnerError: all processes must do the same, but rank 0 is at a training batch; rank 1 is at the forward"
    assert [error[: len(said)] for error in in_each(2, leave_out_unsaid)] == [said] * 2
