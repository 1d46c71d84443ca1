"""What a replay goes through is compared with what is on record."""

import numpy as np
import pytest
import torch

from callbacks import CheckpointCallback
from learner import LearnerError
from learner.checkpoint.losses import NONE, LossFile
from learner.replay.record import Record
from tests.resuming import tiny_learner


def record_of(folder, losses):
    LossFile(folder).write(0, losses)
    return Record(folder)


@pytest.mark.parametrize(
    ("losses", "first", "worst"),
    [
        ([1, 5, 2, 3], 0, 1),
        ([1, 5, 2, 3], 2, 3),
        ([NONE, NONE, 2, 3, NONE], 0, 3),
        ([1, 5, float("nan"), float("inf")], 0, 2),
        ([1, 5, float("inf"), float("nan")], 0, 2),
    ],
)
def test_the_worst_batch_has_the_largest_loss_or_is_the_first_that_is_not_finite(tmp_path, losses, first, worst):
    assert record_of(tmp_path, losses).worst(first) == worst


def test_without_a_loss_on_record_there_is_no_worst_batch(tmp_path):
    for record in (Record(tmp_path), record_of(tmp_path, [NONE])):
        with pytest.raises(LearnerError, match="`at='worst'` must have losses on record, got none in"):
            record.worst(0)


def test_the_first_difference_counts_from_where_the_replay_began(tmp_path):
    record = record_of(tmp_path, [1.0, 2.0, NONE, float("nan"), 5.0])
    assert record.first_difference(1, [2.0, 9.0, float("nan"), 5.0, 7.0]) is None
    assert record.first_difference(1, [2.0, 9.0, float("nan"), 5.5]) == 3
    assert record.first_difference(0, [1.0, 2.0 + 1e-15]) == 1
    assert Record(tmp_path / "step-00000001.pt").first_difference(0, [3.0]) == 0
    assert record.first_difference(0, [1.0, 2.00001, 3.0, float("nan"), 5.01], is_exact=False) == 4


def test_a_run_has_its_losses_on_record_also_when_it_went_on_elsewhere(tmp_path):
    """Those of two fits, of which the second was stopped and gone on with, are those that the batches had."""
    seen, learn = [], tiny_learner(CheckpointCallback(tmp_path))
    learn.fit(1, cbs=Seen(seen))
    stopped = tiny_learner(CheckpointCallback(tmp_path, every=4))
    stopped.load(tmp_path / "step-00000006.pt")
    with pytest.raises(ZeroDivisionError):
        stopped.fit(2, cbs=[Seen([]), StopAt(10)])
    again = tiny_learner(CheckpointCallback(tmp_path, every=4))
    again.fit(2, resume=True, cbs=[Seen(seen), StopAt(99)])
    assert len(LossFile(tmp_path).read()) == 18
    assert LossFile(tmp_path).read()[:6].tolist() == seen[:6]
    assert LossFile(tmp_path).read()[-len(seen) + 6 :].tolist() == seen[6:]
    tiny_learner(CheckpointCallback(tmp_path)).fit(1)
    assert len(LossFile(tmp_path).read()) == 6
    assert len(LossFile(tmp_path).path.with_name("losses.f64.old").read_bytes()) == 18 * 8


class Seen:
    def __init__(self, found):
        self.found = found

    def after_batch(self, learn):
        if learn.training:
            self.found.append(learn.loss.item())


class StopAt:
    def __init__(self, n):
        self.n = n

    def before_batch(self, learn):
        if learn.n_steps == self.n:
            raise ZeroDivisionError


def test_losses_of_weights_that_hold_nan_are_on_record(tmp_path):
    class Spoil:
        def after_step(self, learn):
            if learn.n_steps == 3:
                learn.model[0].weight.data.fill_(float("nan"))

    with pytest.warns(RuntimeWarning, match="the weights hold NaN"):
        tiny_learner(CheckpointCallback(tmp_path, every=2, keep="all")).fit(1, cbs=Spoil())
    losses = LossFile(tmp_path).read()
    assert np.isfinite(losses).tolist() == [True] * 3 + [False] * 3
    learn = tiny_learner([CheckpointCallback(tmp_path), Spoil()])
    with learn.rewind(tmp_path, at="worst", cbs=None) as then:
        assert then.n_steps == 3
        assert not torch.isfinite(then.run())


def test_it_says_from_which_batch_on_it_differs_and_what_commonly_does_that(tmp_path):
    tiny_learner(CheckpointCallback(tmp_path, keep="all")).fit(3)
    file = LossFile(tmp_path)
    losses = file.read().tolist()
    learn = tiny_learner(CheckpointCallback(tmp_path))
    with learn.rewind(tmp_path, step=11):  # as it was: nothing is said
        pass
    losses[9] += 1e-7
    file.write(0, losses)
    with (
        pytest.warns(
            RuntimeWarning,
            match=r"from batch 3 of epoch 1 on: .*; the 3 batches before it are the same. What commonly does that",
        ) as warned,
        learn.rewind(tmp_path, step=11),
    ):
        pass
    with learn.rewind(tmp_path, step=9) as then:
        ids = ", ".join(map(str, sorted(then.ids.tolist())))
    assert str(warned[0].message).endswith(f" That batch holds samples {ids}: look at these, if data have changed.")


def test_it_goes_to_the_worst_batch(tmp_path):
    tiny_learner(CheckpointCallback(tmp_path, keep="spread")).fit(3)
    losses = LossFile(tmp_path).read()
    learn = tiny_learner(CheckpointCallback(tmp_path))
    with learn.rewind(tmp_path, at="worst") as then:
        assert then.n_steps == losses.argmax()
        assert then.run() == losses.max()
