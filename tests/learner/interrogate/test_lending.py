"""What captures change of a model is put back in whatever order they end."""

import copy
import itertools

import pytest
import torch
from torch import nn

from learner.interrogate import capture
from learner.interrogate.lending import on_one_device

X = torch.ones(2, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_forwards_are_put_back_in_any_order(order, has_own):
    model = Net()
    if has_own:
        model.forward = own = lambda x: model.b(x)
    captures = [capture(model, name, stop=True) for name in ("b", "b", "b:in")]
    for one in captures:
        one.__enter__()
    assert model(X) is None
    for i in order:
        captures[i].__exit__(None, None, None)
    assert vars(model).get("forward") is (own if has_own else None)
    assert model(X).shape == (2, 2)


def test_a_capture_that_has_ended_stops_no_more_while_a_later_one_goes_on():
    model = Net()
    first, second = capture(model, "a", stop=True), capture(model, "b", stop=True)
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert model(X) is None
        assert second["b"].shape == (2, 2)
        assert model.forward(X) is None
    assert "forward" not in vars(model)


@pytest.mark.parametrize("has_own", [False, True])
def test_a_copy_that_is_made_within_runs_its_own_forward(has_own):
    model = Net()
    if has_own:
        model.forward = model.a.forward
    with capture(model, "a", stop=True):
        twin = copy.deepcopy(model)
    nn.init.zeros_(twin.a.weight)
    assert ("forward" in vars(twin)) is has_own
    output = twin(X)
    assert torch.equal(output, twin.a.bias.expand(2, 3) if has_own else twin.b(twin.a(X)))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_devices_are_put_back_in_any_order(order):
    model = nn.Sequential(nn.DataParallel(Net()))
    model[0].device_ids = [0, 1]
    blocks = [on_one_device(model) for _ in range(2)]
    for block in blocks:
        block.__enter__()
    for n_left, i in zip((1, 2), order, strict=True):
        assert model[0].device_ids == [0]
        blocks[i].__exit__(None, None, None)
        assert len(model[0].device_ids) == n_left
