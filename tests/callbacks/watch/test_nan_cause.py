"""What tensors hold, and the words made of it."""

import math
from dataclasses import dataclass

import pytest
import torch

from callbacks.watch.nan_cause import FirstBad, NaNReport, TensorStats, has_nan, is_finite, listed, stats_of

NAN, INF = math.nan, math.inf
FINITE, BAD = TensorStats.of("input", torch.ones(2)), TensorStats.of("input", torch.tensor([NAN, NAN, INF]))
XB, BAD_XB = TensorStats.of("xb", torch.ones(2)), TensorStats.of("xb", torch.tensor([1.0, INF]))


def report(**given):
    parts = {"epoch": 1, "dl_name": "train", "i": 2, "loss": NAN, "module": "a.b", "kind": "Log", "inputs": (FINITE,)}
    parts |= {"outputs": (BAD,), "batch": (XB,), "weights": (), "path": None}
    return NaNReport(**(parts | given))


def test_numbers_are_of_the_finite_values():
    values = torch.tensor([[1.0, 2.0, 6.0], [NAN, INF, -INF]])
    assert TensorStats.of("x", values) == ("x", (2, 3), "float32", 1, 2, 1.0, 6.0, 3.0)
    assert str(TensorStats.of("x", values)) == "x (2, 3) float32, 1 to 6, mean 3, 1 NaN and 2 inf"


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor(NAN), (1, 0, None, None, None)),
        (torch.zeros(0), (0, 0, None, None, None)),
        (torch.tensor([1, 4]), (0, 0, 1, 4, 2.5)),
        (torch.tensor([True, False]), (0, 0, 0, 1, 0.5)),
        (torch.tensor([complex(1, INF), complex(3, 2)]), (0, 1, 1, 3, 2)),
        (torch.tensor([1.0, NAN], dtype=torch.float16), (1, 0, 1, 1, 1)),
        (torch.tensor([1.0, NAN, 3.0], dtype=torch.bfloat16), (1, 0, 1, 3, 2)),
        (torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn), (1, 0, 1, 1, 1)),
        (torch.tensor([[0.0, NAN]]).to_sparse(), (1, 0, 0, 0, 0)),
        (torch.tensor([2.0], requires_grad=True), (0, 0, 2, 2, 2)),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, torch.Tensor) else "",
)
def test_tensors_of_any_kind(tensor, expected):
    assert TensorStats.of("x", tensor)[3:] == expected
    assert is_finite(tensor) is (expected[:2] == (0, 0))
    assert has_nan(tensor) is (expected[0] > 0)


def test_a_mean_in_half_precision_does_not_overflow():
    assert TensorStats.of("x", torch.full((1000,), 60000.0, dtype=torch.float16)).mean == 60000


def test_tensors_are_found_in_any_nest():
    @dataclass
    class Point:
        x: torch.Tensor
        note: str

    one, bad = torch.ones(1), torch.tensor([NAN])
    nest = ({"a": [one, Point(bad, "note")]}, None, "text", 3.0)
    assert [stats.name for stats in stats_of("out", nest)] == ["out[0].a[0]", "out[0].a[1].x"]
    assert not is_finite(nest)
    assert is_finite(({"a": [one]}, None, NAN))  # a number is no tensor


def test_long_lists_are_cut():
    assert listed("ab") == "`a`, `b`"
    assert listed("abcdefg") == "`a`, `b`, `c`, `d`, `e`, ..."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "The first output that is not finite is that of `a.b` (Log), whose inputs are finite."),
        ({"inputs": ()}, "The first output that is not finite is that of `a.b` (Log)."),
        (
            {"module": ""},
            "The first output that is not finite is that of the model itself (Log), whose inputs are finite.",
        ),
        (
            {"module": "loss_f", "kind": "nll_loss"},
            "The first output that is not finite is that of the loss function (nll_loss), whose inputs are finite.",
        ),
        (
            {"inputs": (FINITE, BAD)},
            "The first output that is not finite is that of `a.b` (Log); 2 NaN and 1 inf in input came from "
            "code between modules.",
        ),
        (
            {"inputs": (BAD,), "batch": (BAD_XB, XB)},
            "The batch itself holds 1 inf in xb. The first output that is not finite is that of `a.b` (Log).",
        ),
        (
            {"weights": ("0.weight",)},
            "Before the batch, NaN or inf was already in `0.weight`. The first output that is not finite is that of "
            "`a.b` (Log), whose inputs are finite.",
        ),
        (
            {"module": None, "kind": None, "inputs": (), "outputs": ()},
            "All values were finite when the batch ran again: look for random numbers of Python or NumPy, kernels that "
            "are not deterministic, or a callback that changes the predictions or the loss.",
        ),
    ],
)
def test_the_cause_is_what_is_known(given, expected):
    assert report(**given).cause == expected


def test_a_report_prints_as_text():
    assert str(report(path="there.pt")).splitlines() == [
        "the loss was nan in epoch 1, loader 'train', batch 2",
        "The first output that is not finite is that of `a.b` (Log), whose inputs are finite.",
        "  inputs: input (2,) float32, 1 to 1, mean 1",
        "  outputs: input (3,) float32, 2 NaN and 1 inf",
        "  batch: xb (2,) float32, 1 to 1, mean 1",
        "repeat: NaNReportCallback.repeat('there.pt', learn)",
    ]
    assert "again" not in str(report())


def test_the_first_module_that_ends_badly_is_kept_with_what_went_in():
    first, x, bad = FirstBad(), torch.ones(1), torch.tensor([NAN])
    first.enter((x,), {})  # the outer one
    first.enter((x, x), {"mask": x})
    first.leave("outer.inner", "Inner", bad)
    first.leave("outer", "Outer", bad)
    first.enter((bad,), {})
    name, kind, inputs, outputs = first.first
    assert (name, kind, [part.name for part in inputs]) == (
        "outer.inner",
        "Inner",
        ["input[0]", "input[1]", "input.mask"],
    )
    assert [part.name for part in outputs] == ["output"]
