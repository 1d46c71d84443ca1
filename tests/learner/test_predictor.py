"""What a batch is taken apart into, and what the model is called with."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from learner import LearnerError, Predictor
from learner.batch import batch_size_of, describe

X, X2, Y = torch.zeros(5, 2), torch.ones(5, 2), torch.arange(5)
Pair = namedtuple("Pair", "x y")


class Takes(nn.Module):
    """Return what it was called with."""

    def __init__(self, n):
        super().__init__()
        self.n = n
        self.forward = [None, self.one, self.two, self.three][n]

    def one(self, a):
        return (a,)

    def two(self, a, b):
        return a, b

    def three(self, a, b, c=None):
        return a, b, c


def same(given, expected):
    if isinstance(expected, tuple):
        return len(given) == len(expected) and all(map(same, given, expected))
    return given is expected


@pytest.mark.parametrize(
    ("batch", "options", "has_target", "xb", "yb"),
    [
        ((X, Y), {}, True, X, Y),
        ([X, Y], {}, True, X, Y),
        (Pair(X, Y), {}, True, X, Y),
        ((X, X2, Y), {}, True, (X, X2), Y),
        (X, {}, True, X, None),
        ((X,), {}, True, X, None),
        ((X, X2), {}, False, (X, X2), None),
        ((X, X2, Y), {"n_inp": 1}, True, X, (X2, Y)),
        ((X, X2, Y), {"n_inp": 2}, True, (X, X2), Y),
        ((X, X2, Y), {"n_inp": 3}, True, (X, X2, Y), None),
        ((X, Y), {"n_inp": 2}, True, (X, Y), None),
        ((X, (X2, Y)), {}, True, X, (X2, Y)),
        ((X, None), {}, True, X, None),
    ],
)
def test_split(batch, options, has_target, xb, yb):
    got_x, got_y, size = Predictor(Takes(1 if has_target else 2), **options).split(batch, takes_target=not has_target)
    assert same(got_x, xb)
    assert same(got_y, yb)
    assert size == 5


def test_feed_passes_tuples_by_position():
    predictor = Predictor(Takes(2))
    assert same(predictor.feed(predictor.model, (X, X2)), (X, X2))


def test_a_batch_with_too_few_elements_is_refused():
    with pytest.raises(LearnerError, match=r"at least 3 elements.*got \(Tensor\(5, 2\) float32, Tensor\(5,\) int64\)"):
        Predictor(Takes(3), n_inp=3).split((X, Y))
    with pytest.raises(LearnerError, match="at least 1 element"):
        Predictor(Takes(1)).split(())


@pytest.mark.parametrize(("n", "xb"), [(2, X), (1, (X, X2)), (2, (X, X2, Y))])
def test_what_the_model_cannot_take_is_described_with_what_it_takes(n, xb):
    predictor = Predictor(Takes(n))
    takes = {1: r"\(a\)", 2: r"\(a, b\)"}[n]
    with pytest.raises(LearnerError, match=rf"(?s)Tensor\(5, 2\) float32.*forward takes {takes}.*n_inp"):
        predictor.feed(predictor.model, xb)


def test_it_is_the_model_that_is_called_whose_forward_counts():
    """`learn.model` may be replaced by one that takes something else."""
    predictor = Predictor(Takes(1))
    assert same(predictor.feed(Takes(2), (X, X2)), (X, X2))
    with pytest.raises(LearnerError, match=r"forward takes \(a, b\)"):
        predictor.feed(Takes(2), X)


@pytest.mark.parametrize("model", [None, 3, nn.Linear, lambda x: x])
def test_the_model_must_be_a_module(model):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got"):
        Predictor(model)


@pytest.mark.parametrize("n_inp", [0, -1, 1.5, "1"])
def test_n_inp_must_be_a_count(n_inp):
    with pytest.raises(ValueError, match="`n_inp` must be a whole number of at least 1, got"):
        Predictor(nn.Linear(1, 1), n_inp=n_inp)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (X, 5),
        ({"a": Y, "b": torch.zeros(())}, 5),
        ((torch.zeros(()), X), 5),
        (np.zeros((4, 2)), 4),
        (["a", "b", "c"], 3),
        (([["a"], ["b"]], X), 1),
        ({"text": ["a", "b"], "x": X}, 2),
        (torch.zeros(()), None),
        ((), None),
        ("text", None),
        (None, None),
        (object(), None),
    ],
)
def test_batch_size_of(batch, size):
    assert batch_size_of(batch) == size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((X, Y), "(Tensor(5, 2) float32, Tensor(5,) int64)"),
        ([X], "[Tensor(5, 2) float32]"),
        ({"a": X, 1: "b"}, "{'a': Tensor(5, 2) float32, 1: 'b'}"),
        (X.to("meta"), "Tensor(5, 2) float32 on meta"),
        (np.zeros(3), "ndarray(3,) float64"),
        (tuple(range(20)), "(0, 1, 2, 3, 4, 5, 6, 7, ...)"),
        (None, "None"),
        (object(), "object"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text
