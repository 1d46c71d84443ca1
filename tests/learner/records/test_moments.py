"""Moments of a training, as people name them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.records.moments import Moments


def wanted(at, n=30, **kwargs):
    moments = Moments(at)
    return [i for i in range(n) if moments.wants(i, **kwargs)]


@pytest.mark.parametrize(
    ("at", "epochs"),
    [
        (None, list(range(30))),
        (0, [0]),
        (7, [7]),
        (np.int64(7), [7]),
        ([1, 5], [1, 5]),
        ((1, 5), [1, 5]),
        ({1, 5}, [1, 5]),
        (range(2, 20, 9), [2, 11]),
        (np.array([3, 4]), [3, 4]),
        ((i * i for i in range(4)), [0, 1, 4, 9]),
        (slice(28, None), [28, 29]),
        (slice(None, None, 10), [0, 10, 20]),
        (slice(2, 2), []),
        (slice(0, 0), []),
        ([0, slice(10, None, 5), "end"], [0, 10, 15, 20, 25]),
        ("before", []),
        ("end", []),
        ("best", []),
    ],
)
def test_every_form(at, epochs):
    assert wanted(at) == epochs


def test_words_depend_on_where_the_fit_begins_and_ends():
    assert Moments("before").wants(4, is_first=True)
    assert not Moments("before").wants(4, is_last=True)
    assert Moments("end").wants(4, is_last=True)
    assert not Moments("end").wants(4, is_first=True)
    assert not Moments("best").wants(4, is_first=True, is_last=True)


def test_the_best_epoch_is_told_by_somebody_else():
    assert Moments(["best", 3]).best
    assert not Moments(["end", 3]).best


COUNTS = st.none() | st.integers(0, 40)


@given(start=COUNTS, stop=COUNTS, step=st.none() | st.integers(1, 12), n=st.integers(0, 50))
def test_slices_mean_what_they_mean_to_python(start, stop, step, n):
    part = slice(start, stop, step)
    assert wanted(part, n) == list(range(n))[part]


@given(
    start=COUNTS,
    stop=COUNTS,
    step=st.none() | st.integers(1, 12),
    first=st.integers(0, 20),
    n_epochs=st.integers(1, 30),
)
def test_a_fit_is_refused_exactly_if_no_moment_comes_in_it(start, stop, step, first, n_epochs):
    epochs = range(first, first + n_epochs)
    moments = Moments(slice(start, stop, step))
    if any(n in epochs for n in range(200)[slice(start, stop, step)]):
        moments.check(epochs)
    else:
        with pytest.raises(ValueError, match="`at` must come in this fit"):
            moments.check(epochs)


@pytest.mark.parametrize("at", ["before", "end", "best", [99, "end"], ["best", 99]])
def test_moments_with_a_name_always_come(at):
    Moments(at).check(range(3, 5))


def test_an_epoch_that_never_comes_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"epochs 3 to 4, got \[5\]; it never does"):
        Moments(5).check(range(3, 5))


def test_a_fit_without_epochs_asks_for_nothing():
    Moments(5).check(range(0))


@pytest.mark.parametrize("part", [slice(-1, None), slice(None, -3), slice(0, 9, -1), slice(0, 9, 0), slice(0.5, 2)])
def test_slices_that_count_backwards_or_not_at_all(part):
    with pytest.raises(ValueError, match="`at` must hold slices of numbers from 0 with a step from 1, got slice"):
        Moments(part)


@pytest.mark.parametrize("at", [-1, 1.5, True, [None], [[1]], object, [1, -2]])
def test_what_is_no_moment(at):
    with pytest.raises(ValueError, match="`at` must be epochs from 0, slices, or one of before, end, best, got"):
        Moments(at)


@pytest.mark.parametrize("at", ["last", "", ["end", "Best"]])
def test_words_that_mean_nothing(at):
    with pytest.raises(ValueError, match="`at` must be epochs, slices, or one of before, end, best, got '"):
        Moments(at)


@pytest.mark.parametrize("at", [[], (), "", range(0)])
def test_no_moment_at_all(at):
    with pytest.raises(ValueError, match=r"`at` must (hold an epoch, got none|be epochs)"):
        Moments(at)


@pytest.mark.parametrize("word", ["before", "end", "best"])
def test_words_need_a_pass_of_their_own(word):
    with pytest.raises(ValueError, match=f"`at='{word}'` must have source='pass'"):
        Moments([0, word], may_pass=False)
    assert Moments([0, slice(3, None)], may_pass=False).wants(3)
