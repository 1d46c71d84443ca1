"""Freezing by names, globs, positions, modules; what a frozen parameter does in a fit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from learner import Callback, Learner, LearnerError
from learner.optim import freeze, param_groups, unfreeze


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    return nn.Sequential(body, nn.LayerNorm(4), nn.Linear(4, 1))


NAMES = [name for name, _ in network().named_parameters()]
BODY = ["0.0.weight", "0.0.bias", "0.3.weight", "0.3.bias"]
BATCH_NORM, LAYER_NORM = ["0.1.weight", "0.1.bias"], ["1.weight", "1.bias"]
DATA = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(3)]


def frozen(model):
    return [name for name, p in model.named_parameters() if not p.requires_grad]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["0"], BODY),
        ([1], BODY),  # a position: 0 is the model
        (["0.*"], ["0.0.weight", "0.0.bias", *BATCH_NORM, "0.3.weight", "0.3.bias"]),  # fits the norm itself
        (["0.1"], BATCH_NORM),
        (["0", "0.1"], ["0.0.weight", "0.0.bias", *BATCH_NORM, "0.3.weight", "0.3.bias"]),
        (["**.bias"], [name for name in NAMES if name.endswith("bias")]),
        (["0.0", "1.weight"], ["0.0.weight", "0.0.bias", "1.weight"]),
        ([0], [*BODY, "2.weight", "2.bias"]),
        ([], NAMES),
    ],
)
def test_layers_by_name_glob_and_position(layers, expected):
    model = network()
    freeze(model, *layers)
    assert frozen(model) == expected
    if "*" not in "".join(map(str, layers)):
        freeze(model, *layers, norms=True)
        assert set(frozen(model)) >= set(expected)
    unfreeze(model, *layers)
    assert not set(frozen(model)) & set(expected)


def test_modules_and_parameters_themselves_and_wrappers_around():
    model = network()
    wrapped = nn.DataParallel(model)
    freeze(wrapped, model[0], model[2].weight, model[1])
    assert frozen(model) == ["0.0.weight", "0.0.bias", "0.3.weight", "0.3.bias", *LAYER_NORM, "2.weight"]
    unfreeze(wrapped)
    assert frozen(model) == []


def test_norms_in_the_layers_stay_as_they_were_unless_they_are_asked_for():
    model = network()
    freeze(model, "0.1.bias")
    freeze(model, "0")
    assert frozen(model) == ["0.0.weight", "0.0.bias", "0.1.bias", "0.3.weight", "0.3.bias"]
    assert all(module.training for module in model.modules())
    freeze(model, "0", norms=True)
    assert frozen(model) == ["0.0.weight", "0.0.bias", *BATCH_NORM, "0.3.weight", "0.3.bias"]
    unfreeze(model, "0")
    assert frozen(model) == []


def test_a_tied_parameter_is_frozen_by_each_of_its_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    freeze(model, "1")
    assert frozen(model) == ["0.weight", "1.bias"]


def test_lazy_layers_are_frozen_before_they_are_made():
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    freeze(model, "0")
    assert frozen(model) == ["0.weight", "0.bias"]
    model(torch.ones(1, 3))
    assert frozen(model) == ["0.weight", "0.bias"]
    unfreeze(model)
    assert frozen(model) == []


def test_what_cannot_have_a_gradient_stays():
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    freeze(model)
    unfreeze(model)
    assert frozen(model) == ["codes"]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("0.9", r"`layers` must hold names or globs.*got '0\.9'"),
        ("*.*.*.*", r"got '\*\.\*\.\*\.\*' \(`\*` stops at a dot"),
        (99, r"`layers` must be names, globs, positions or modules of the model, got 99"),
        (nn.Linear(1, 1), "got a Linear that it has not"),
        (nn.Parameter(torch.zeros(2, 2)), r"got a parameter of shape \(2, 2\) that is not"),
        (4, "but 4 holds no parameters"),
        (None, "`layers` must be names, globs, positions or modules"),
    ],
)
def test_what_is_not_in_the_model_is_an_error(layer, match):
    for function in (freeze, unfreeze):
        with pytest.raises(ValueError, match=match):
            function(network(), layer)


def test_a_layer_of_norms_alone_is_an_error_and_not_nothing():
    model = nn.Sequential(nn.Sequential(nn.LayerNorm(2), nn.ReLU()), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="'0' holds norms alone, which stay as they are; do `norms=True`"):
        freeze(model, "0")
    freeze(model, "0", norms=True)
    assert frozen(model) == ["0.0.weight", "0.0.bias"]


def learner(opt_func, model=None):
    return Learner(model or network(), {"train": DATA}, mse_loss, 0.05, opt_func)


def adamw(params, lr):
    return torch.optim.AdamW(params, lr=lr, weight_decay=0.5)


def of_what_trains(params, lr):
    return adamw([p for p in params if p.requires_grad], lr)


def test_what_is_frozen_does_not_move_by_momentum_or_decay_and_trains_on_when_it_is_unfrozen():
    learn = learner(adamw)
    learn.fit(1)
    freeze(learn.model, "0", norms=True)
    before = copy.deepcopy(learn.model)
    learn.fit(2)
    assert all(torch.equal(p, q) for p, q in zip(learn.model[0].parameters(), before[0].parameters(), strict=True))
    assert not torch.equal(learn.model[0][1].running_mean, before[0][1].running_mean)  # it is in train mode
    assert not torch.equal(learn.model[2].weight, before[2].weight)
    unfreeze(learn.model)
    learn.fit(1)
    assert not torch.equal(learn.model[0][0].weight, before[0][0].weight)


class Unfreeze(Callback):
    def before_epoch(self, learn):
        if learn.epoch == 1:
            unfreeze(learn.model)


def test_unfreezing_in_the_middle_of_a_fit_trains_on_or_is_an_error_that_names_it():
    for opt_func in (adamw, param_groups(torch.optim.AdamW, weight_decay=0.5)):
        learn, model = learner(opt_func), network()
        for each in (learn.model, model):
            freeze(each, "0")
        learn.fit(2, cbs=Unfreeze())
        opt = adamw(model.parameters(), 0.05)
        for epoch in range(2):
            if epoch == 1:
                unfreeze(model)
            for x, y in DATA:
                opt.zero_grad()
                mse_loss(model(x), y).backward()
                opt.step()
        assert all(torch.equal(p, q) for p, q in zip(learn.model.parameters(), model.parameters(), strict=True))
    learn = learner(of_what_trains)
    freeze(learn.model, "0")
    with pytest.raises(LearnerError, match=r"but 0\.0\.weight, 0\.0\.bias.* came after it was made: .*an unfrozen one"):
        learn.fit(2, cbs=Unfreeze())
    assert learn.n_steps == len(DATA)


def test_a_model_that_is_frozen_as_a_whole_cannot_be_fit():
    learn = learner(adamw)
    freeze(learn.model)
    with pytest.raises(LearnerError, match=r"`model` must have a parameter that can be trained.*all are frozen"):
        learn.fit(1)


def test_a_list_of_layers_is_told_to_be_given_one_by_one():
    with pytest.raises(ValueError, match=r"got \['0', '1'\] \(pass them one by one\)"):
        freeze(network(), ["0", "1"])
