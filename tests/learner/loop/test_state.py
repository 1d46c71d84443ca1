"""Snapshots: what is put back, in place, and bit for bit."""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from learner import LearnerError
from learner.loop.state import pass_mode, remember, remember_model, remember_optimizer

# -- modes --------------------------------------------------------------------------------------------------------


def mixed_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.ReLU()))
    model[1].eval()
    model[2][0].eval()
    return model


def flags(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", ["mixed", "eval", "train"])
@pytest.mark.parametrize("kind", [None, ValueError])
def test_a_pass_runs_in_its_mode_and_leaves_the_flags_as_they_were(training, start, kind):
    model = mixed_model()
    if start != "mixed":
        model.train(start == "train")
    before = flags(model)
    during = []

    def go():
        with torch.set_grad_enabled(not training), pass_mode(model, [], training=training):
            during.extend([flags(model), torch.is_grad_enabled()])
            if kind:
                raise kind("on purpose")

    if kind:
        with pytest.raises(kind, match="on purpose"):
            go()
    else:
        go()
    in_train = before if start == "mixed" else [True] * len(before)
    assert during == [in_train if training else [False] * len(before), training]
    assert flags(model) == before


# -- values -------------------------------------------------------------------------------------------------------


def change_list(value):
    value[0].append(9)
    value.append(1)


def change_dict(value):
    value["a"].append(9)
    value["new"] = value.pop("b")


def change_tensor(value):
    value.mul_(3)


VALUES = {
    "list": (lambda: [[1], 2], change_list),
    "deque": (lambda: deque([[1], 2], maxlen=5), change_list),
    "dict": (lambda: {"a": [1], "b": 2}, change_dict),
    "ordered dict": (lambda: OrderedDict(b=2, a=[1]), change_dict),
    "defaultdict": (lambda: defaultdict(int, a=[1], b=2), change_dict),
    "counter": (lambda: Counter("aab"), lambda value: value.update("abc")),
    "set": (lambda: {1, 2}, lambda value: value.symmetric_difference_update({2, 3})),
    "tuple": (lambda: ([1], 2), lambda value: value[0].append(9)),
    "tensor": (lambda: torch.ones(3), change_tensor),
    "half": (lambda: torch.ones(3, dtype=torch.bfloat16), change_tensor),
    "scalar": (lambda: torch.tensor(2), change_tensor),
    "transposed": (lambda: torch.arange(6.0).reshape(2, 3).t(), change_tensor),
    "array": (lambda: np.arange(3), lambda value: value.fill(7)),
    "nested": (lambda: {"a": [{"b": (torch.ones(1), {3})}]}, lambda value: value["a"][0]["b"][0].mul_(2)),
    "number": (lambda: 3, lambda value: None),
    "none": (lambda: None, lambda value: None),
}


def comparable(value):
    if isinstance(value, torch.Tensor | np.ndarray):
        return (value.dtype, value.tolist())
    if isinstance(value, dict):
        return [(key, comparable(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return (type(value), getattr(value, "maxlen", None), [comparable(item) for item in value])
    return value


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_put_back_in_place_as_often_as_one_likes(name):
    make, change = VALUES[name]
    value = make()
    restore = remember(value)
    for _ in range(2):
        change(value)
        given_back = restore()
        assert comparable(given_back) == comparable(make())
        assert given_back is value or isinstance(value, tuple)


@pytest.mark.parametrize("make", [torch.Generator, np.random.default_rng, random.Random])
def test_a_generator_is_put_back(make):
    generator = make()

    def number():
        return torch.rand(1, generator=generator).item() if make is torch.Generator else generator.random()

    restore = remember(generator)
    first = [number(), number()]
    restore()
    assert [number(), number()] == first


def test_what_has_a_state_dict_is_put_back_by_it():
    layer = nn.Linear(2, 2)
    before = copy.deepcopy(layer.state_dict())
    restore = remember(layer)
    for _ in range(2):
        nn.init.zeros_(layer.weight)
        assert restore() is layer
        assert torch.equal(layer.weight, before["weight"])


def test_an_expanded_tensor_can_be_remembered():
    value = torch.ones(1).expand(3)
    assert remember(value)().tolist() == [1, 1, 1]


def test_anything_else_is_given_back_as_it_is():
    value = object()
    assert remember(value)() is value


# -- model and optimizer ------------------------------------------------------------------------------------------


def test_a_model_is_put_back_in_place_with_gradients_and_requires_grad():
    model = mixed_model()
    model[0].weight.grad = torch.ones(2, 2)
    model[0].bias.requires_grad_(False)
    weight, grad, mean = model[0].weight, model[0].weight.grad, model[1].running_mean
    before, modes = copy.deepcopy(model.state_dict()), flags(model)
    restore = remember_model(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    grad.zero_()
    model[0].weight.grad, model[0].bias.grad = None, torch.ones(2)
    model[0].bias.requires_grad_(True)
    model[1].running_mean = torch.full((2,), 5.0)
    model.train()
    restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model[0].weight is weight, model[0].weight.grad is grad, model[1].running_mean is mean) == (True,) * 3
    assert grad.tolist() == [[1, 1], [1, 1]]
    assert (model[0].bias.grad, model[0].bias.requires_grad, flags(model)) == (None, False, modes)


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("n_before", [0, 2])
def test_an_optimizer_goes_on_as_if_nothing_had_been(name, n_before):
    def step(model, opt, n):
        for i in range(n):
            opt.zero_grad()
            model(torch.full((1, 2), float(i))).sum().backward()
            opt.step()

    model = nn.Linear(2, 1)
    opt = OPTIMIZERS[name](model.parameters())
    step(model, opt, n_before)
    weights, restore = remember_model(model), remember_optimizer(opt)
    step(model, opt, 3)
    expected = [p.detach().clone() for p in model.parameters()]
    opt.param_groups[0].update(weight_decay=5.0, extra=1)
    if name == "tensor lr":
        opt.param_groups[0]["lr"].fill_(7)
    else:
        opt.param_groups[0]["lr"] = 7
    opt.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    step(model, opt, 1)
    restore()
    weights()
    assert len(opt.param_groups) == 1
    assert "extra" not in opt.param_groups[0]
    assert len(opt.state) == (2 if n_before else 0)
    step(model, opt, 3)
    assert all(torch.equal(p, e) for p, e in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize("call", ["summary", "lr_find", "sandbox"])
def test_a_lazy_model_that_has_not_run_is_told_before_anything_is_changed(make_learner, call):
    def use(learn):
        result = getattr(learn, call)()
        if call == "sandbox":
            with result:
                pass

    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 3))
    learn = make_learner(model=model)
    with pytest.raises(LearnerError, match=r"lazy ones that have not seen a batch: '0\.weight', .*`learn\.model\(x\)`"):
        use(learn)
    assert isinstance(model[0], nn.LazyLinear)
    model(torch.ones(2, 4))
    use(learn)
