"""Neighbours against scikit-learn's brute force; ties, oneself, memory and bad input."""

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learner.interrogate.neighbours import neighbour_overlap, neighbours

module = import_module("learner.interrogate.neighbours")  # whose name the function has as well
METRICS = ["cosine", "euclidean"]


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 500)  # so that a few rows are a block


def by_sklearn(bank, queries, k, metric):
    """Distances and indices of brute force in float64; `queries` None leaves each sample itself out."""
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(bank.double().numpy())
    return finder.kneighbors(None if queries is None else queries.double().numpy())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 99])
@pytest.mark.usefixtures("_small_blocks")
def test_the_bank_among_itself_is_as_by_sklearn(metric, k):
    bank = torch.randn(100, 16)
    found = neighbours(bank, k=k, metric=metric)
    distances, indices = by_sklearn(bank, None, k, metric)
    assert np.array_equal(found.indices, indices)
    assert np.allclose(found.distances, distances, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.usefixtures("_small_blocks")
def test_queries_are_as_by_sklearn(metric, k):
    bank, queries = torch.randn(100, 4, 4), torch.randn(37, 4, 4)
    found = neighbours(bank, queries, k=k, metric=metric)
    distances, indices = by_sklearn(bank.flatten(1), queries.flatten(1), k, metric)
    assert found.indices.shape == found.distances.shape == (37, k)
    assert np.array_equal(found.indices, indices)
    assert np.allclose(found.distances, distances, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_change_nothing(metric, monkeypatch):
    bank = torch.randn(60, 5)
    whole = neighbours(bank, k=7, metric=metric)
    monkeypatch.setattr(module, "_BLOCK", 1)
    one_by_one = neighbours(bank, k=7, metric=metric)
    assert torch.equal(whole.indices, one_by_one.indices)
    assert torch.equal(whole.distances, one_by_one.distances)


@given(
    points=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=2, max_size=30),
    k=st.integers(1, 29),
    is_self=st.booleans(),
)
def test_equally_near_ones_come_by_index(points, k, is_self):
    k = min(k, len(points) - is_self)
    found = neighbours(points, None if is_self else list(points), k=k, metric="euclidean")
    for i, (row, distances) in enumerate(zip(found.indices.tolist(), found.distances.tolist(), strict=True)):
        # Whole numbers, compared exactly.
        squares = {j: sum((x - y) ** 2 for x, y in zip(points[i], p, strict=True)) for j, p in enumerate(points)}
        expected = sorted((j for j in squares if not (is_self and j == i)), key=lambda j: (squares[j], j))[:k]
        assert row == expected
        assert distances == [squares[j] ** 0.5 for j in expected]


@pytest.mark.parametrize("n_copies", [2, 40])
@pytest.mark.usefixtures("_small_blocks")
def test_copies_and_multiples_are_equally_near_in_direction(n_copies):
    x = torch.randn(6, 8)
    bank = torch.cat([x * scale for scale in range(1, n_copies + 1)])
    found = neighbours(bank, x, k=n_copies)
    assert found.distances.abs().max() == 0
    assert not found.distances.signbit().any()  # which reads -0.
    assert found.indices.tolist() == [list(range(i, len(bank), 6)) for i in range(6)]


@pytest.mark.parametrize("metric", METRICS)
def test_a_bank_of_one_repeated_sample_is_taken_by_index(metric):
    found = neighbours(torch.full((50, 4), 0.3), k=3, metric=metric)
    assert found.indices[:4].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert (found.indices[4:] == torch.tensor([0, 1, 2])).all()
    assert found.distances.abs().max() == 0


def test_only_the_bank_itself_leaves_oneself_out():
    bank = torch.randn(20, 3)
    alone = neighbours(bank, k=5)
    assert torch.equal(neighbours(bank, bank, k=5).indices, alone.indices)
    assert not (alone.indices == torch.arange(20)[:, None]).any()
    copied = neighbours(bank, bank.clone(), k=5)
    assert torch.equal(copied.indices[:, 0], torch.arange(20))
    assert torch.equal(copied.indices[:, 1:], alone.indices[:, :4])


def test_a_zero_vector_has_cosine_zero_with_everything():
    found = neighbours([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], k=3)
    assert found.indices.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert found.distances.tolist() == [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]


def test_an_offset_far_from_the_origin_costs_no_neighbour():
    near_zero = torch.randn(80, 6, dtype=torch.float64)
    shifted = neighbours(near_zero + 1e7, k=5, metric="euclidean")
    assert torch.equal(shifted.indices, neighbours(near_zero, k=5, metric="euclidean").indices)


def test_a_copy_is_at_distance_zero_though_far_from_the_origin():
    x = torch.rand(10, 300) * 1000
    assert neighbours(x, x.clone(), k=1, metric="euclidean").distances.max() == 0


def test_half_precision_arrays_and_lists_are_taken():
    bank = torch.randn(30, 4).half()
    expected = neighbours(bank.double(), k=3).indices
    assert torch.equal(neighbours(bank, k=3).indices, expected)
    assert torch.equal(neighbours(bank.numpy(), k=3).indices, expected)
    assert torch.equal(neighbours(bank.tolist(), k=3).indices, expected)


class LargestTensor(TorchDispatchMode):
    """Remember how many numbers the largest tensor holds that any operation gave."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [10, 200])
def test_no_square_matrix_is_ever_made(metric, k, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 50_000)
    with LargestTensor() as largest:
        neighbours(torch.randn(2000, 20), k=k, metric=metric)
    assert largest.numel <= max(50_000, 2000 * k)  # of 4,000,000; what is returned is of 2,000 k


def test_what_is_found_is_fetched_in_blocks_as_well(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 50_000)
    with LargestTensor() as largest:
        neighbours(torch.randn(400, 300), k=100)
    assert largest.numel <= 400 * 300  # the bank itself, of 400 * 100 * 300


def test_the_block_is_small_beside_the_square():
    assert module._BLOCK < 30_000**2 / 200


@pytest.mark.parametrize(
    ("bank", "arguments", "error", "match"),
    [
        (
            torch.ones(3, 2),
            {"k": 3},
            ValueError,
            "`k` must be from 1 to 2, got 3; the bank holds 3 samples, one of them",
        ),
        (
            torch.ones(3, 2),
            {"k": 4, "queries": torch.ones(1, 2)},
            ValueError,
            "`k` must be from 1 to 3, got 4; the bank",
        ),
        (torch.ones(3, 2), {"k": 0}, ValueError, "`k` must be from 1 to 2, got 0"),
        (torch.ones(3, 2), {"k": 1.5}, TypeError, "`k` must be a whole number, got 1.5"),
        (torch.ones(3, 2), {"k": 1, "metric": "cosin"}, ValueError, "got 'cosin', did you mean 'cosine'?"),
        (torch.ones(3, 2), {"k": 1, "metric": None}, ValueError, "`metric` must be 'cosine' or 'euclidean', got None"),
        (torch.ones(3, 2), {"k": 1, "queries": torch.ones(1, 3)}, ValueError, "`queries` must be as wide as `bank`, 2"),
        (torch.full((3, 2), torch.nan), {"k": 1}, ValueError, "`bank` must be finite, got NaN or infinity in 3 of 3"),
        (torch.full((3, 2), torch.inf), {"k": 1}, ValueError, "`bank` must be finite"),
        (torch.ones(3, 2), {"k": 1, "queries": [[torch.nan, 1]]}, ValueError, "`queries` must be finite"),
        (torch.ones(0, 2), {"k": 1}, ValueError, "`bank` must hold at least one sample"),
        (
            torch.ones(3, 2),
            {"k": 1, "queries": torch.ones(0, 2)},
            ValueError,
            "`queries` must hold at least one sample",
        ),
        (torch.ones(3), {"k": 1}, ValueError, r"`bank` must have shape \(N, D...\), got \(3,\)"),
    ],
)
def test_bad_input_is_refused(bank, arguments, error, match):
    with pytest.raises(error, match=match):
        neighbours(bank, **arguments)


@pytest.mark.parametrize("metric", METRICS)
def test_overlap_is_the_share_of_common_neighbours(metric):
    a, b = torch.randn(50, 8), torch.randn(50, 3)
    in_a, in_b = by_sklearn(a, None, 10, metric)[1], by_sklearn(b, None, 10, metric)[1]
    expected = [len(set(x) & set(y)) / 10 for x, y in zip(in_a, in_b, strict=True)]
    assert neighbour_overlap(a, b, metric=metric).tolist() == pytest.approx(expected)


def test_overlap_is_one_with_what_is_the_same_and_near_chance_with_what_is_not():
    a = torch.randn(400, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert neighbour_overlap(a, 2 * a @ rotation, k=10).mean() > 0.999
    assert neighbour_overlap(a, torch.randn(400, 8), k=20).mean() == pytest.approx(20 / 399, abs=0.01)
    assert neighbour_overlap(a, a, k=10).tolist() == [1.0] * 400


def test_overlap_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="`a` and `b` must be of the same samples, got 5 and 6"):
        neighbour_overlap(torch.ones(5, 2), torch.ones(6, 2), k=1)
    with pytest.raises(ValueError, match="`b` must be finite"):
        neighbour_overlap(torch.ones(5, 2), torch.full((5, 2), torch.nan), k=1)
    with pytest.raises(ValueError, match="`k` must be from 1 to 4, got 5"):
        neighbour_overlap(torch.ones(5, 2), torch.ones(5, 2), k=5)
