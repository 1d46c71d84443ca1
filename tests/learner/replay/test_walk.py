"""A fit that is left before a batch, and gone on with from there."""

import pytest
import torch

from callbacks import CheckpointCallback
from learner import Callback, LearnerError
from learner.checkpoint.file import read_checkpoint
from learner.replay import seed
from learner.replay.walk import Now, Walk
from tests.resuming import tiny_learner


@pytest.fixture
def walk(tmp_path):
    """Return a learner and its walk from the end of the first of three epochs of 6 batches."""
    tiny_learner(CheckpointCallback(tmp_path)).fit(3)
    path = tmp_path / "step-00000006.pt"
    learn = tiny_learner(CheckpointCallback(tmp_path))
    with learn.sandbox():
        yield learn, Walk(learn, path, read_checkpoint(path))


def test_it_says_how_far_it_is_and_which_losses_came_on_the_way(walk):
    walk = walk[1]
    assert walk.begin(lambda now: now.i == 2)
    assert walk.now == Now(n_steps=8, epoch=1, i=2, n_batches=8)
    assert walk.go(lambda now: now.n_batches == 13)
    assert walk.now == Now(n_steps=13, epoch=2, i=1, n_batches=13)
    assert (walk.first, len(walk.losses)) == (6, 7)


def test_where_the_fit_ends_before_it_stands_where_it_stood(walk):
    learn, walk = walk
    assert walk.begin(lambda now: now.n_steps == 8)
    assert not walk.go(lambda now: now.n_steps == 19)
    assert (walk.now.n_steps, learn.n_steps) == (8, 8)
    assert walk.go(lambda now: now.n_steps == 18)
    assert walk.stop is None
    assert walk.now.n_batches == 18


def test_a_change_counts_as_a_whole_and_one_can_go_back(walk):
    learn, walk = walk
    walk.begin(lambda now: now.n_steps == 8)
    stop, ends = walk.stop, []
    for change in (lambda learn: None, seed(5), lambda learn: None):
        walk.go_back(stop)
        walk.change(change)
        walk.go(lambda now: now.n_steps == 10)
        ends.append(learn.model[0].weight.detach().clone())
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[1])


def test_a_change_that_replaces_the_model_or_a_shape_is_one_error(walk):
    walk = walk[1]
    walk.begin(lambda now: now.n_steps == 8)

    def other_shape(learn):
        learn.model[3] = torch.nn.Linear(8, 4)

    def other_model(learn):
        learn.model = torch.nn.Linear(4, 3)

    for change in (other_shape, other_model):
        with pytest.raises(LearnerError, match="`change` must keep the model and the shapes of its parameters"):
            walk.change(change)


def test_to_look_takes_what_the_last_of_the_callbacks_leaves(walk):
    class Double(Callback):
        def after_backward(self, learn):
            for p in learn.model.parameters():
                p.grad *= 2

    learn, walk = walk
    walk.begin(lambda now: now.n_steps == 8)
    walk.look()
    once = learn.model[0].weight.grad.clone()
    with learn.added(Double()):
        walk.look()
    assert torch.equal(learn.model[0].weight.grad, 2 * once)
    assert len(walk.losses) == 2
