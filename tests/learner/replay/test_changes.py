"""Changes of a batch and of what comes after it, against a loop by hand."""

import copy
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from callbacks import AccumulateCallback, CheckpointCallback, SchedulerCallback
from learner import Learner, LearnerError, Loaders
from learner.ranks.job import ALONE
from learner.replay import lr, relabelled, seed, without
from learner.replay.changes import BatchChange
from tests.resuming import seed_all

N = 22


def numbered(cbs, dropout=0.0, batch=None):
    """Return a learner whose samples are their own numbers; the target is the number as well."""
    seed_all(0)
    x = torch.arange(float(N))[:, None]
    dls = Loaders.from_arrays(train=(x, x.clone()), batch_size=4)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
    return Learner(model, dls, nn.functional.mse_loss, 0.05, partial(torch.optim.SGD, momentum=0.9), cbs)


@pytest.fixture
def learn(tmp_path):
    numbered(CheckpointCallback(tmp_path)).fit(2)
    return numbered(CheckpointCallback(tmp_path))


def by_hand(learn, batches, factor=1.0):
    """Return the weights after steps on batches, in a loop of one's own, from where the learner stands."""
    model = copy.deepcopy(learn.model)
    opt = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    opt.load_state_dict(copy.deepcopy(learn.opt.state_dict()))
    for group in opt.param_groups:
        group["lr"] *= factor
    for x, y in batches:
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    return nn.utils.parameters_to_vector(model.parameters())


def weights_of(learn):
    return nn.utils.parameters_to_vector(learn.model.parameters())


def following(learn, then, n):
    """Return the next batches, and come back."""
    batches = []
    for _ in range(n):
        batches.append(then.batch)
        then.advance()
    return batches


def test_without_leaves_samples_out_of_that_batch_alone_as_a_loop_by_hand_does(learn, tmp_path):
    with learn.rewind(tmp_path, step=8) as then:
        batches = following(learn, then, 3)
    with learn.rewind(tmp_path, step=8) as then:
        gone = then.ids[[1, 3]].tolist()
        x, y = batches[0]
        expected = by_hand(learn, [(x[[0, 2]], y[[0, 2]]), *batches[1:]])
        then.change(without(gone))
        then.run()  # a look does not use the change up
        then.advance(3)
        assert torch.equal(weights_of(learn), expected)


def test_relabelled_changes_targets_of_that_batch_alone_as_a_loop_by_hand_does(learn, tmp_path):
    with learn.rewind(tmp_path, step=8) as then:
        batches = following(learn, then, 3)
    with learn.rewind(tmp_path, step=8) as then:
        x, y = batches[0]
        other = y.clone()
        other[2] = -5.0
        expected = by_hand(learn, [(x, other), *batches[1:]])
        then.change(relabelled({int(then.ids[2]): -5}))
        then.advance(3)
        assert torch.equal(weights_of(learn), expected)
        assert learn.dls["train"].dataset[int(x[2])][1] == x[2]  # the data are as they were


def test_lr_multiplies_the_rate_as_a_loop_by_hand_does(learn, tmp_path):
    with learn.rewind(tmp_path, step=8) as then:
        batches = following(learn, then, 3)
    with learn.rewind(tmp_path, step=8) as then:
        expected = by_hand(learn, batches, factor=0.5)
        then.change(lr(0.5))
        then.advance(3)
        assert torch.equal(weights_of(learn), expected)
        assert learn.opt.param_groups[0]["lr"] == 0.05  # what a schedule goes on from


def test_lr_lasts_under_a_schedule(tmp_path):
    def learner():
        return numbered([CheckpointCallback(tmp_path), SchedulerCallback(partial(OneCycleLR, max_lr=0.01))])

    learner().fit(2)
    moves = {}
    for factor in (1, 0.5):
        learn = learner()
        with learn.rewind(tmp_path, step=8) as then:
            then.change(lr(factor))
            rates = []
            with learn.added(See(rates)):
                then.advance(4)
            moves[factor] = rates
    assert moves[0.5] == [rate / 2 for rate in moves[1]]
    assert len(moves[1]) == 4


class See:
    """Take down the rate that the optimizer makes its step with."""

    def __init__(self, rates):
        self.rates = rates

    def around_step(self, learn, action):
        handle = learn.opt.register_step_pre_hook(lambda opt, *_: self.rates.append(opt.param_groups[0]["lr"]))
        action()
        handle.remove()


def test_seed_draws_other_numbers_from_there_on_and_the_order_stays(tmp_path):
    numbered(CheckpointCallback(tmp_path), dropout=0.5).fit(2)
    learn, ends = numbered(CheckpointCallback(tmp_path), dropout=0.5), []
    for number in (1, 2, 1):
        with learn.rewind(tmp_path, step=8) as then:
            batches = following(learn, then, 2)
        with learn.rewind(tmp_path, step=8) as then:
            then.change(seed(number))
            assert torch.equal(then.batch[0], batches[0][0])
            then.advance()
            assert torch.equal(then.batch[0], batches[1][0])
            ends.append(weights_of(learn).detach().clone())
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[1])


def test_in_the_middle_of_a_window_the_batch_alone_is_smaller(tmp_path):
    def learner():
        return numbered([CheckpointCallback(tmp_path, every=1, keep=99), AccumulateCallback(2)])

    learner().fit(2)
    learn = learner()
    with learn.rewind(tmp_path, epoch=1, i=2) as then:
        first, second = following(learn, then, 2)
    with learn.rewind(tmp_path, epoch=1, i=2) as then:
        then.advance()
        x, y = second
        pairs = [first, (x[1:], y[1:])]
        whole = tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))
        expected = by_hand(learn, [whole])
        then.change(without(int(then.ids[0])))
        then.advance()
        torch.testing.assert_close(weights_of(learn), expected)  # sums in another order


Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"x": torch.arange(3), "text": ["a", "b", "c"]}, {"x": torch.tensor([0, 2]), "text": ["a", "c"]}),
        (Pair(torch.arange(3), np.arange(3)), Pair(torch.tensor([0, 2]), np.array([0, 2]))),
        ([torch.arange(6).view(3, 2), ({"y": torch.arange(3)})], [torch.tensor([[0, 1], [4, 5]]), {"y": [0, 2]}]),
        (torch.arange(3), torch.tensor([0, 2])),
    ],
    ids=["mapping", "named tuple", "nest", "tensor"],
)
def test_samples_are_left_out_of_batches_of_any_kind(batch, expected):
    class Standing:
        job = ALONE

        def add_cb(self, cb):
            self.cb = cb

    learn = Standing()
    without(7).make(learn, 0, 0, batch, np.array([5, 7, 9]))
    learn.training, learn.epoch, learn.i, learn.batch = True, 0, 0, batch
    learn.history = type("History", (), {"state_dict": lambda self: {"start": 0}})()
    learn.cb.before_batch(learn)
    assert type(learn.batch) is type(batch)
    assert str(plain(learn.batch)) == str(plain(expected))


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda: without(), ValueError, "`ids` must name a sample at least, got none"),
        (lambda: without(2.5), TypeError, "`ids` must be a whole number, got 2.5"),
        (lambda: relabelled([3]), TypeError, r"`labels` must be a mapping from sample to label, got \[3\]"),
        (lambda: relabelled({}), ValueError, "`ids` must name a sample at least"),
        (lambda: lr("half"), TypeError, "`factor` must be a number, got 'half'"),
        (lambda: lr(0), ValueError, "`factor` must be a finite number above 0, got 0"),
        (lambda: lr(float("inf")), ValueError, "`factor` must be a finite number above 0"),
        (lambda: seed(-1), ValueError, "`other` must be from 0 to"),
        (lambda: seed("a"), TypeError, "`other` must be a whole number"),
    ],
)
def test_arguments_that_cannot_be_are_one_error(change, error, words):
    with pytest.raises(error, match=words):
        change()


def test_samples_that_are_not_there_are_one_error_when_the_change_is_made(learn, tmp_path):
    with learn.rewind(tmp_path, step=8) as then:
        there = sorted(then.ids.tolist())
        for change in (without(99), relabelled({99: 0})):
            with pytest.raises(
                LearnerError, match=rf"`ids` must be samples of the batch, got \[99\]; it holds \[{there[0]}"
            ):
                then.change(change)
        with pytest.raises(LearnerError, match="`ids` must leave a sample in the batch, got all 4"):
            then.change(without(*there))
        then.advance()  # nothing of them has stayed


def test_samples_that_nobody_knows_are_one_error(tmp_path):
    def learner():
        batches = [(torch.ones(2, 1), torch.ones(2, 1))] * 3
        return Learner(nn.Linear(1, 1), {"train": batches}, nn.functional.mse_loss, cbs=CheckpointCallback(tmp_path))

    learner().fit(2)
    with (
        learner().rewind(tmp_path, step=4) as then,
        pytest.raises(LearnerError, match=r"must have a batch whose samples are known.*without 1"),
    ):
        then.change(without(1))


def test_a_target_that_is_no_part_of_the_batch_cannot_be_relabelled():
    batch = {"graph": [1, 2]}
    predictor = SimpleNamespace(split=lambda *_: (None, None, 2))
    learn = SimpleNamespace(job=ALONE, loss_f=None, predictor=predictor)
    with pytest.raises(LearnerError, match="the target must be a tensor of the batch with a row for each sample"):
        relabelled({1: 0}).make(learn, 0, 0, batch, np.array([1, 2]))


def test_parts_without_a_row_for_each_sample_are_one_error():
    with pytest.raises(LearnerError, match="each part of a batch must have a row for each of the 2 samples"):
        without(1).make(SimpleNamespace(job=ALONE), 0, 0, (torch.ones(3, 1), torch.ones(2)), np.array([1, 2]))
    assert isinstance(without(1), BatchChange)
