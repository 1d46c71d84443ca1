"""Which parameters are meant."""

import pytest
import torch
from torch import nn

from callbacks.watch.parameters import checked_choices, chosen_parameters


class Model(nn.Module):
    """Parameters of its own, modules within modules, and one weight in two places."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
        self.head = nn.Linear(2, 3)
        self.head.weight = self.body[0].weight

    def forward(self, x):
        return x


BODY = ["body.0.weight", "body.0.bias", "body.2.0.weight", "body.2.0.bias"]
ALL = ["scale", *BODY, "head.bias"]


def names(model, *choices, **kwargs):
    return list(chosen_parameters(model, checked_choices(choices or None), **kwargs))


def test_all_by_the_names_of_the_model():
    model = Model()
    assert names(model) == ALL == [name for name, _ in model.named_parameters()]
    for name, p in chosen_parameters(model, None).items():
        assert p is model.get_parameter(name)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["scale"], ["scale"]),
        (["body.2.0.bias"], ["body.2.0.bias"]),
        (["body"], BODY),
        (["body.2"], BODY[2:]),
        (["head.weight"], ["body.0.weight"]),  # by its other name
        (["head"], ["body.0.weight", "head.bias"]),
        (["*.bias"], ["head.bias"]),
        (["**.bias"], ["body.0.bias", "body.2.0.bias", "head.bias"]),
        (["body.*.b*"], ["body.0.bias"]),
        (["body.*"], BODY),  # modules
        (["body.**.weight"], ["body.0.weight", "body.2.0.weight"]),
        (["**"], ALL),
        (["s*"], ["scale"]),
        (["head.bias", "scale", "scale"], ["scale", "head.bias"]),  # in the model's order, each once
        ([0], ALL),
        ([2], BODY[:2]),
    ],
    ids=str,
)
def test_by_name_glob_and_position(choices, expected):
    assert names(Model(), *choices) == expected


def test_by_module_and_parameter():
    model = Model()
    assert names(model, model.body[2]) == BODY[2:]
    assert names(model, model) == ALL
    assert names(model, model.head.weight, model.scale) == ["scale", "body.0.weight"]
    assert list(chosen_parameters(model, checked_choices(model.head))) == ["body.0.weight", "head.bias"]


def test_wrappers_have_no_part_in_names():
    model = Model()
    model.body = nn.DataParallel(model.body)
    wrapped = nn.DataParallel(model)
    assert sorted(names(wrapped)) == sorted(ALL)
    assert names(wrapped, "body.0.bias", "module.scale") == ["scale", "body.0.bias"]


def test_a_filter_is_asked_about_those_chosen():
    asked = []
    assert names(Model(), "body", param_filter=lambda p: asked.append(p) or p.ndim > 1) == BODY[::2]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("choice", "got"),
    [
        ("tail", "'tail'"),
        ("heed.bias", "'heed.bias', did you mean 'head.bias'?"),
        ("body.9", "'body.9'"),
        ("*.scale", r"'\*.scale' \(`\*` stops at a dot"),
        ("body.1", "'body.1'"),  # a ReLU
        ("head:in", "'head:in'"),
        (99, "99"),
        (nn.Linear(2, 2), "a Linear"),
        (nn.Parameter(torch.ones(1)), "a Parameter"),
    ],
    ids=str,
)
def test_refuses_what_is_not_there(choice, got):
    with pytest.raises(
        ValueError, match=rf"`parameters` must be parameters of .*, got {got}.*; there is scale, body.0"
    ):
        names(Model(), "body", choice)


def test_refuses_to_watch_nothing():
    with pytest.raises(
        ValueError, match="`parameters` and `param_filter` must leave something to watch, got none of 6"
    ):
        names(Model(), param_filter=lambda p: False)


@pytest.mark.parametrize("choice", [None, 1.5, True, b"body"])
def test_refuses_what_can_choose_nothing(choice):
    with pytest.raises(TypeError, match="`parameters` must hold parameters, modules, names, globs or positions, got"):
        checked_choices(["body", choice])


def test_one_choice_or_several():
    weight = torch.ones(2)
    assert checked_choices(None) is None
    assert checked_choices("body") == ["body"]
    assert checked_choices(3) == [3]
    assert checked_choices(weight)[0] is weight
    assert checked_choices(iter(["a", "b"])) == ["a", "b"]
