"""The model in the module of torch that exchanges gradients, and what is said when that complains."""

import pytest
import torch
from torch import nn

from callbacks import DistributedCallback
from callbacks.scale.replica import Replica, explained
from tests.ranks import TIMEOUT, in_each

OPTIONS = {"broadcast_buffers": True, "find_unused_parameters": False, "bucket_cap_mb": 25}


def wrap():
    rank = DistributedCallback(timeout=TIMEOUT).rank
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    replica = Replica(**OPTIONS)
    first = replica.of(model)
    seen = {"kept": replica.of(model) is first}
    x = torch.full((2, 2), 1.0 + rank)
    x[0] += 1
    first(x).sum().backward()
    seen["gradients"] = [p.grad for p in model.parameters()]
    model[0].requires_grad_(False)
    replica.look_at(model)
    frozen = replica.of(model)
    seen["anew"] = frozen is not first
    seen["another"] = replica.of(nn.Linear(1, 1)) is not frozen
    replica.drop()
    seen["hooks"] = [len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()]

    own = Replica(**{**OPTIONS, "broadcast_buffers": False})
    model[1].running_mean.fill_(float(rank))
    own.of(model)  # made, it has copied them
    model[1].running_mean.fill_(float(rank))
    model.eval()
    own.of(model)(x)
    seen["buffers"] = model[1].running_mean.tolist()
    return seen


def look_at_forwards():
    """Return for a few forwards, of which one prepares no exchange, whether all processes have to call them."""
    DistributedCallback(timeout=TIMEOUT)
    seen = {}
    for name, layers in {"plain": [], "norm": [nn.BatchNorm1d(2)]}.items():
        for broadcasts in (True, False):
            model, replica = (
                nn.Sequential(nn.Linear(2, 2), *layers),
                Replica(**{**OPTIONS, "broadcast_buffers": broadcasts}),
            )
            found = seen[name, broadcasts] = []
            for is_synced in (True, False, True, True):
                found.append(replica.exchanges_in_forward(model))
                replica.of(model, is_synced)(torch.ones(2, 2)).sum().backward()
            replica.drop()
            found.append(replica.exchanges_in_forward(model))
    return seen


def test_the_first_forwards_need_all_processes_and_each_one_that_exchanges_buffers():
    at_first = [True, True, True, False, True]  # as torch orders its exchange anew in the one after the first backward
    for seen in in_each(2, look_at_forwards):
        assert seen.pop(("norm", True)) == [True] * 5
        assert list(seen.values()) == [at_first] * 3


@pytest.fixture(scope="module")
def seen():
    return in_each(2, wrap)


def test_it_is_made_once_and_anew_where_something_else_trains(seen):
    for each in seen:
        assert (each["kept"], each["anew"], each["another"]) == (True, True, True)


def test_gradients_are_those_of_all(seen):
    for mine, theirs in zip(seen[0]["gradients"], seen[1]["gradients"], strict=True):
        assert torch.equal(mine, theirs)


def test_buffers_are_exchanged_only_if_asked_for(seen):
    assert [each["buffers"] for each in seen] == [[0.0, 0.0], [1.0, 1.0]]


def test_nothing_is_left_on_the_model(seen):
    assert all(set(each["hooks"]) == {0} for each in seen)


def test_what_got_no_gradient_is_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].weight.grad = torch.ones(1, 1)
    model[1].bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="Expected to have finished") as caught, explained(model, "MyCallback"):
        raise RuntimeError("Expected to have finished reduction in the prior iteration.")
    assert caught.value.__notes__ == [
        "learner: no gradient has come to 0.bias, 1.weight; freeze what is not used, or do "
        "`MyCallback(find_unused_parameters=True)`"
    ]


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes") as caught, explained(nn.Linear(1, 1), "MyCallback"):
        raise RuntimeError("shapes do not fit")
    assert not hasattr(caught.value, "__notes__")
