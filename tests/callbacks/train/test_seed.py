"""SeedCallback: equal fits, whatever ran before them."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import SeedCallback
from learner import Callback, Learner, Loaders
from tests.resuming import assert_equal_runs, resumed_from_each, tiny_learner


def model_with_dropout() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))


_elsewhere = itertools.count(1)


def trained(dls, *, cbs, n_epochs=2):
    """Return the weights after a fit that finds the generators in a state they were never in before."""
    model = model_with_dropout()
    torch.manual_seed(1000 + next(_elsewhere))
    Learner(model, dls, nn.functional.cross_entropy, cbs=cbs).fit(n_epochs)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_two_fits_of_equal_models_are_equal_to_the_bit(dls):
    assert torch.equal(trained(dls, cbs=SeedCallback(3)), trained(dls, cbs=SeedCallback(3)))


def test_without_a_seed_and_with_another_they_differ(dls):
    seeded = trained(dls, cbs=SeedCallback(3))
    assert not torch.equal(seeded, trained(dls, cbs=SeedCallback(4)))
    assert not torch.equal(trained(dls, cbs=None), trained(dls, cbs=None))


def test_generators_of_loaders_are_seeded_too():
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    own = torch.Generator().manual_seed(99)
    dls = Loaders({"train": DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, generator=own)})
    first = trained(dls, cbs=SeedCallback(3))
    own.manual_seed(100)
    assert torch.equal(first, trained(dls, cbs=SeedCallback(3)))


def test_the_order_of_samples_differs_from_epoch_to_epoch(make_learner):
    seen = []

    class Order(Callback):
        def before_batch(self, learn):
            if learn.training and learn.i == 0:
                seen.append(learn.batch[0])

    make_learner([SeedCallback(0), Order()]).fit(2)
    assert not torch.equal(*seen)


def test_it_seeds_python_numpy_and_torch_as_by_hand(make_learner):
    class Draw(Callback):
        def before_fit(self, learn):
            self.drawn = random.random(), np.random.rand(), torch.rand(1).item()

    draw = Draw()
    make_learner([draw, SeedCallback(11)]).fit(0)
    random.seed(11), np.random.seed(11), torch.manual_seed(11)
    assert draw.drawn == (random.random(), np.random.rand(), torch.rand(1).item())


def test_it_comes_before_the_device():
    from callbacks import DeviceCallback

    assert SeedCallback.order < DeviceCallback.order


@pytest.mark.parametrize("seed", ["1", 1.5, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(TypeError, match="`seed` must be a whole number, got"):
        SeedCallback(seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_one_that_every_generator_takes(seed):
    with pytest.raises(ValueError, match=r"`seed` must be at least 0 and below 2\*\*32, got"):
        SeedCallback(seed)


def test_whole_numbers_of_other_types_do():
    assert SeedCallback(np.int64(5)).seed == 5


def test_a_fit_that_goes_on_does_not_begin_again_with_the_seed(tmp_path):
    """Dropout draws what it would have drawn; so do Python and NumPy."""

    class Draw(Callback):
        def after_predict(self, learn):
            learn.preds = learn.preds + random.random() + np.random.rand()

    whole, gone_on = resumed_from_each(lambda cbs: tiny_learner([*cbs, SeedCallback(3), Draw()]), 2, tmp_path)
    assert len(gone_on) == 12
    for learn in gone_on:
        assert_equal_runs(learn, whole)
