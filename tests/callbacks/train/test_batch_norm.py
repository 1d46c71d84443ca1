"""Running statistics of batch norm anew: those of torch's own way, and nothing else has changed."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import update_batch_norm
from callbacks.train.batch_norm import renew, trained_norms
from learner import Callback, Learner


def network(*dropout):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), *dropout, nn.Linear(8, 3))


def batches(n=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(n)]


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def generators():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def test_they_are_those_of_torch():
    model, other, data = network(), network(), batches()
    learn = Learner(model, {"train": data, "valid": data}, nn.functional.cross_entropy)
    model.eval()
    update_batch_norm(learn)
    update_bn(data, other)
    for name, buffer in other.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name)), name
    assert model[1].num_batches_tracked == 5
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())


def test_they_are_a_mean_over_the_batches_of_all_training_loaders():
    first, second = batches(3), batches(2, seed=2)
    model = network()
    learn = Learner(model, {"train": first, "train2": second, "valid": batches(9)}, nn.functional.cross_entropy)
    update_batch_norm(learn)
    with torch.no_grad():
        outputs = [model[0](x) for x, _ in first + second]
    expected = torch.stack([out.mean(0) for out in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected, rtol=0, atol=1e-6)


def test_no_random_number_is_drawn_and_nothing_else_changes():
    """The loader shuffles, from torch's generator and from one of its own, and dropout is off."""

    class Draws(Callback):
        def after_predict(self, learn):
            drawn.append(generators()[2] != before_batch[-1])

        def before_batch(self, learn):
            before_batch.append(generators()[2])

    drawn, before_batch = [], []
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    own = torch.Generator().manual_seed(3)
    loaders = {
        "train": DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True),
        "train2": DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=own),
    }
    learn = Learner(network(nn.Dropout(0.5)), loaders, nn.functional.cross_entropy, cbs=Draws())
    learn.fit(1)
    metrics, held, history = dict(learn.metrics), learn.metrics, learn.history.to_dict()
    parameters = nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()
    now, of_loader = generators(), own.get_state()
    drawn.clear()
    before = statistics(learn.model)
    update_batch_norm(learn)
    assert drawn == [False] * 10
    assert generators() == now
    assert torch.equal(own.get_state(), of_loader)
    assert learn.metrics is held
    assert (dict(held), learn.history.to_dict()) == (metrics, history)
    assert torch.equal(parameters, nn.utils.parameters_to_vector(learn.model.parameters()))
    assert not torch.equal(before["1.running_mean"], learn.model[1].running_mean)
    assert all(module.training for module in learn.model.modules())


def test_layers_that_are_frozen_stay_as_they_are():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[0].eval()
    assert list(trained_norms(model)) == ["1"]
    learn = Learner(model, {"train": batches()}, nn.functional.cross_entropy)
    update_batch_norm(learn)
    assert [norm.num_batches_tracked.item() for norm in model[:2]] == [0, 5]
    assert [norm.training for norm in model[:2]] == [False, True]
    model.eval()
    assert list(trained_norms(model)) == ["0", "1"]


def test_layers_without_running_statistics_and_models_without_such_layers():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4), nn.Linear(4, 3))
    assert trained_norms(model) == {}
    passes = []

    class Hear(Callback):
        def before_epoch(self, learn):
            passes.append(learn.dl_name)

    learn = Learner(model, {"train": batches()}, nn.functional.cross_entropy, cbs=Hear())
    update_batch_norm(learn)
    assert passes == []
    norm = nn.BatchNorm1d(4)
    assert trained_norms(norm) == {"": norm}


def test_after_an_error_momenta_modes_and_metrics_are_back():
    class Fail(Callback):
        def after_predict(self, learn):
            if learn.role == "infer":
                raise KeyError("on purpose")

    model = network()
    model.eval()
    learn = Learner(model, {"train": batches()}, nn.functional.cross_entropy, cbs=Fail())
    learn.fit(1)
    metrics = dict(learn.metrics)
    with pytest.raises(KeyError, match="on purpose"):
        update_batch_norm(learn)
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())
    assert learn.metrics == metrics


def test_of_an_endless_loader_as_many_batches_as_asked_for():
    class Endless:
        def __iter__(self):
            while True:
                yield from batches()

    model = network()
    learn = Learner(model, {"train": Endless()}, nn.functional.cross_entropy)
    renew(learn, trained_norms(model), {"train": 7})
    assert model[1].num_batches_tracked == 7
