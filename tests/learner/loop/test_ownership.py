"""What a callback replaces takes effect, or is one error that names it."""

import pytest
import torch
from torch import nn

from learner import Callback, Learner, LearnerError, Loaders
from learner.loop.ownership import OWNED


@pytest.mark.parametrize("signal", ["before_fit", "before_epoch"])
@pytest.mark.parametrize("name", OWNED)
def test_what_the_loop_owns_is_not_replaced(make_learner, signal, name):
    class Replaces(Callback):
        pass

    setattr(Replaces, signal, lambda self, learn: setattr(learn, name, []))
    with pytest.raises(
        LearnerError, match=rf"`learn\.{name}` must be left to the loop, got a list from Replaces\.{signal}; "
    ):
        make_learner(Replaces()).fit(1)


def test_what_may_be_replaced_is_honoured_and_what_is_written_into_stays(make_learner):
    class Replaces(Callback):
        def before_fit(self, learn):
            learn.epochs = range(2)
            learn.metrics["mine"] = {"loss": 1.0}
            learn.validate()
            learn.get_preds()

        def before_epoch(self, learn):
            learn.dl = list(learn.dl)[:1]

        def before_batch(self, learn):
            x, y = learn.batch
            learn.batch = x * 0, y

    learn = make_learner(Replaces())
    learn.fit(1)
    assert len(learn.history) == 2
    assert learn.n_samples == 2 * 16
    assert learn.metrics["mine"] == {"loss": 1.0}


@pytest.mark.parametrize("name", ["xb", "yb"])
def test_what_is_set_before_the_batch_is_taken_apart_is_an_error(make_learner, name):
    class Sets(Callback):
        def before_batch(self, learn):
            setattr(learn, name, learn.batch[0])

    with pytest.raises(
        LearnerError, match=rf"`learn\.{name}` must not be set in Sets\.before_batch, .*replace `learn.batch`"
    ):
        make_learner(Sets()).fit(1)


def test_a_loader_that_is_put_in_anothers_place_is_the_one_that_runs():
    x = torch.ones(20, 3)
    learn = Learner(nn.Linear(3, 3), Loaders.from_arrays(train=(x, x), batch_size=4), nn.functional.mse_loss)
    learn.dls.train = [(x[:2], x[:2])]
    learn.dls.valid = [(x[:1], x[:1])]
    learn.fit(1)
    assert learn.n_samples == 2
    assert list(learn.metrics) == list(learn.dls) == ["train", "valid"]
    with pytest.raises(ValueError, match="a loader's name must start with 'train'"):
        learn.dls.other = []
    assert list(learn.dls) == ["train", "valid"]
