"""Loading holds one copy of a model beside it, and undoes what it has begun."""

import gc

import pytest
import torch
from torch import nn

from callbacks import CheckpointCallback
from learner import Callback, CancelFitException, Learner, LearnerError
from learner.checkpoint.exchange import exchanged, pairs_of, with_own_tensors
from learner.checkpoint.model import model_state
from learner.checkpoint.plain import plain
from learner.checkpoint.snapshot import snapshot
from tests.resuming import differing

SHAPE = (37, 41)


def saved_of(model):
    return plain(model_state(model), copy=True)


def n_alive():
    """Return how many memories of the size of the one weight there are."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(n_bytes == 4 * SHAPE[0] * SHAPE[1] for n_bytes in storages.values())


class Counting(Callback):
    """Counts what is alive where loading holds most: when all but callbacks is put back."""

    is_broken = False

    def __init__(self):
        self.found = []

    def state_dict(self):
        return {"n": 1}

    def load_state_dict(self, state):
        self.found.append(n_alive())
        if self.is_broken:
            raise ValueError("cannot read that")


def learner(opt_func, cbs=()):
    torch.manual_seed(0)
    data = [(torch.ones(2, SHAPE[1]), torch.ones(2, SHAPE[0]))] * 3
    model = nn.Linear(SHAPE[1], SHAPE[0], bias=False)
    return Learner(model, {"train": data}, nn.functional.mse_loss, 0.01, opt_func, [Counting(), *cbs])


OPTIMIZERS = pytest.mark.parametrize(("opt_func", "n_of_learner"), [(torch.optim.SGD, 1), (torch.optim.Adam, 3)])


@OPTIMIZERS
def test_loading_holds_one_copy_of_what_the_learner_has(tmp_path, opt_func, n_of_learner):
    learn = learner(opt_func)
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    before = n_alive()
    learn.load(tmp_path / "learn.pt")
    assert learn.cbs[0].found == [before + n_of_learner]
    assert n_alive() == before


class Stop(Callback):
    def after_batch(self, learn):
        if learn.n_steps == 4:
            raise RuntimeError("stopped")


class Look(Callback):
    def before_batch(self, learn):
        self.found = n_alive()
        raise CancelFitException  # before another checkpoint takes a copy


@OPTIMIZERS
@pytest.mark.parametrize("every", [3, 2])  # the last one is of a whole epoch, or of within one
def test_so_does_resuming_and_the_fit_that_goes_on_holds_none(tmp_path, opt_func, n_of_learner, every):
    with pytest.raises(RuntimeError, match="stopped"):
        learner(opt_func, [CheckpointCallback(tmp_path, every), Stop()]).fit(3)
    before, look = n_alive(), Look()
    learn = learner(opt_func, [look, CheckpointCallback(tmp_path, every=100)])
    learn.fit(3, resume=True)
    assert max(learn.cbs[0].found) == before + 1 + n_of_learner
    assert look.found == before + n_of_learner


def test_what_a_callback_cannot_read_leaves_the_learner_as_it_was(tmp_path):
    learner_of_file = learner(torch.optim.Adam)
    learner_of_file.fit(2)
    learner_of_file.save(tmp_path / "learn.pt")
    learn = learner(torch.optim.Adam)
    learn.fit(1)
    learn.cbs[0].is_broken = True
    before = plain(snapshot(learn), copy=True)
    with pytest.raises(LearnerError, match=r"could not be put back: ValueError: cannot read that. Nothing was changed"):
        learn.load(tmp_path / "learn.pt")
    assert differing(snapshot(learn), before) == []


class Odd(nn.Module):
    """Tied weights, views of one memory, a buffer that is not saved and one that is a single number, repeated."""

    def __init__(self, start=0.0):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        whole = torch.arange(4.0) + start
        self.register_buffer("left", whole[:3])
        self.register_buffer("right", whole[1:])
        self.register_buffer("unsaved", torch.tensor(start), persistent=False)
        self.register_buffer("repeated", torch.tensor(1.0).expand(3))
        self.register_buffer("other_type", torch.zeros(2, dtype=torch.float16 if start else torch.float32))


def test_what_is_alike_exchanges_its_values_and_an_error_exchanges_them_back():
    torch.manual_seed(0)
    model, saved = Odd(), saved_of(Odd(start=10.0))
    before, read = saved_of(model), plain(saved, copy=True)
    pairs = pairs_of(model, saved)
    own = with_own_tensors(saved, pairs)
    names = {
        name for part in ("state", "other_buffers") for name in own[part] if own[part][name] is not saved[part][name]
    }
    assert names == {"a.weight", "b.weight", "a.bias", "b.bias", "left", "right", "unsaved"}
    assert own["state"]["b.weight"] is model.a.weight

    def fail():
        with exchanged(pairs):
            assert torch.equal(model.a.weight, read["state"]["a.weight"])
            assert model.unsaved == 10
            raise CancelFitException

    with pytest.raises(CancelFitException):
        fail()
    assert differing(saved_of(model), before) == []
    assert differing(saved, read) == []


def test_what_was_read_can_be_put_back_once_more():
    torch.manual_seed(0)
    model, saved = nn.Linear(2, 2), saved_of(nn.Linear(2, 2))
    read = plain(saved, copy=True)
    with exchanged(pairs_of(model, saved)):
        pass
    assert differing(saved, read) == []
    assert differing(saved_of(model), read) == []
