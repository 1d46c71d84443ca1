"""Random generators are found wherever Python lets one look."""

import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from learner.data.held_generators import held_generators

GLOBAL = np.random.default_rng(0)


class Augment:
    """Holds a generator, and draws from it in a method."""

    def __init__(self, **held):
        vars(self).update(held)

    def collate(self, batch):
        return batch


class Slotted:
    __slots__ = ("empty", "rng")

    def __init__(self):
        self.rng = random.Random(0)


class OfTheClass:
    rng = torch.Generator()


class NamesAGlobal:
    def __getitem__(self, i):
        return GLOBAL.normal()


rng = GLOBAL  # is not what a method means by `self.rng`


class NamesNone:
    def __getitem__(self, i):
        return self.rng


def closed_over(rng):
    return lambda batch: rng.normal()


def by_default(batch, rng=GLOBAL, *, other=None):
    return rng


RNG = np.random.RandomState(0)


@pytest.mark.parametrize(
    ("thing", "where"),
    [
        (RNG, "it"),
        (Augment(rng=RNG), "it.rng"),
        (Augment(rng=RNG).collate, "it.rng"),
        (Augment(rngs={"noise": RNG}), "it.rngs['noise']"),
        (Augment(steps=[1, (Augment(r=RNG),)]), "it.steps[1][0].r"),
        (Augment(steps={RNG}), "it.steps[0]"),
        (functools.partial(list, rng=RNG), "it.keywords['rng']"),
        (functools.partial(max, RNG), "it.args[0]"),
        (functools.partial(Augment(r=RNG).collate), "it.func.r"),
        (closed_over(RNG), "it(rng)"),
        (by_default, "it(default)"),
        (Slotted(), "it.rng"),
        (OfTheClass(), "it.rng"),
        (NamesAGlobal(), "it.__getitem__(GLOBAL)"),
        (nn.Sequential(nn.Identity()).append(type("Own", (nn.Module,), {"rng": RNG})()), "it._modules['1'].rng"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_a_generator_is_found(thing, where):
    assert next(name for name, _ in held_generators(thing, "it")) == where


@pytest.mark.parametrize(
    "thing",
    [
        None,
        "text",
        [RNG] * 33,
        {str(i): RNG for i in range(33)},
        random,
        random.Random,
        torch.zeros(3),
        max,
        NamesNone(),
    ],
)
def test_nothing_is_found_where_there_is_none_or_one_cannot_look(thing):
    assert list(held_generators(thing, "it")) == []


def test_what_holds_itself_or_very_much_ends():
    knot = Augment(module=types)
    knot.itself = knot
    knot.many = [[[Augment() for _ in range(20)] for _ in range(20)] for _ in range(20)]
    assert list(held_generators(knot, "it")) == []
    knot.rng = RNG
    assert [where for where, _ in held_generators(knot, "it")] == ["it.rng"]
