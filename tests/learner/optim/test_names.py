"""Parameters by names and globs, those of their layers among them."""

import pytest
from torch import nn

from learner.optim.names import all_names, first_names, meant_by

MODEL = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "head": nn.Linear(2, 1)})
NAMES = [name for name, _ in MODEL.named_parameters()]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("body", NAMES[:4]),
        ("body.*", NAMES[:4]),
        ("body.1", NAMES[2:4]),
        ("head.weight", ["head.weight"]),
        ("*.bias", ["head.bias"]),
        ("**.bias", ["body.0.bias", "body.1.bias", "head.bias"]),
        ("*", NAMES),
        ("**", NAMES),
    ],
)
def test_a_glob_means_parameters_and_what_is_in_layers(glob, expected):
    assert meant_by(glob, NAMES, "lr") == expected


@pytest.mark.parametrize(
    ("glob", "match"),
    [
        ("bodi", r"`lr` must hold names or globs.*got 'bodi', did you mean 'body'\?; there is body\.0\.weight, "),
        ("*.0.*.x", r"got '\*\.0\.\*\.x' \(`\*` stops at a dot, `\*\*` does not\)"),
        ("", "got ''"),
    ],
)
def test_a_glob_that_means_nothing_is_an_error(glob, match):
    with pytest.raises(ValueError, match=match):
        meant_by(glob, NAMES, "lr")


def test_what_is_no_glob():
    with pytest.raises(TypeError, match=r"`no_decay` must hold names or globs.*, got 3\."):
        meant_by(3, NAMES, "no_decay")


def test_wrappers_have_no_part_in_names_and_tied_parameters_have_several():
    inner = nn.ModuleDict({"a": nn.DataParallel(nn.Linear(2, 2, bias=False)), "b": nn.Linear(2, 2, bias=False)})
    inner["b"].weight = inner["a"].module.weight
    inner["c"] = nn.Linear(2, 1, bias=False)
    names = all_names(nn.DataParallel(inner), "loss_f")
    assert list(names) == ["loss_f.a.weight", "loss_f.b.weight", "loss_f.c.weight"]
    assert list(first_names(names).values()) == ["loss_f.a.weight", "loss_f.c.weight"]
