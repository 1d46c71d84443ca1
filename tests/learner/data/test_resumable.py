"""Loaders by name, their seeds and their states, in one process and in the next."""

import torch
from torch.utils.data import DataLoader

from learner.data.resumable import ResumableLoaders


class Stateful:
    """A loader with a state of its own."""

    def __init__(self, n=0):
        self.n = n

    def __iter__(self):
        return iter(range(self.n, 4))

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def shuffled():
    return DataLoader(range(20), batch_size=4, shuffle=True)


def order(loaders, name="train"):
    return torch.cat(list(loaders.get(name, shuffled()).at(epoch=1))).tolist()


def test_the_next_process_has_the_same_order():
    torch.manual_seed(0)
    first = ResumableLoaders()
    expected = {name: order(first, name) for name in ("train", "valid")}
    assert expected["train"] != expected["valid"]
    torch.manual_seed(1)
    again = ResumableLoaders(**first.state_dict())
    assert {name: order(again, name) for name in expected} == expected
    assert order(ResumableLoaders()) != expected["train"]


def test_a_loader_is_made_resumable_once_and_another_of_its_name_anew():
    loaders, dl = ResumableLoaders(), shuffled()
    first = loaders.get("train", dl)
    assert loaders.get("train", dl) is first
    other = loaders.get("train", shuffled())
    assert other is not first
    assert other.seed == first.seed


def test_a_state_is_given_once_and_kept_until_its_loader_comes():
    loaders = ResumableLoaders(states={"train": {"n": 2}, "valid": {"n": 1}})
    train = Stateful()
    loaders.get("train", train)
    assert (train.n, loaders.states) == (2, {"valid": {"n": 1}})
    train.n = 3
    loaders.get("train", train)
    assert train.n == 3
    assert loaders.state_dict()["states"] == {"train": {"n": 3}, "valid": {"n": 1}}


def test_what_it_was_made_from_stays_as_it_is():
    given = {"seeds": {"train": 5}, "states": {"train": {"n": 2}}}
    loaders = ResumableLoaders(**given)
    loaders.get("train", Stateful())
    loaders.get("valid", Stateful())
    assert given == {"seeds": {"train": 5}, "states": {"train": {"n": 2}}}
