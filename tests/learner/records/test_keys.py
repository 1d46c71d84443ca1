"""Rows by what they are of: against loops."""

import numpy as np
import pytest

from learner.records.keys import cells_of, matched


def test_cells_are_means_of_their_rows():
    rng = np.random.default_rng(0)
    ids, epochs, x = rng.integers(-5, 5, 80), rng.integers(0, 9, 80) ** 2, rng.normal(size=80).astype(np.float32)
    cells = cells_of(ids, epochs, {"x": x, "right": x > 0})
    assert cells.example_ids.tolist() == sorted(set(ids.tolist()))
    assert cells.epochs.tolist() == sorted(set(epochs.tolist()))
    for i, one in enumerate(cells.example_ids):
        for j, epoch in enumerate(cells.epochs):
            mine = x[(ids == one) & (epochs == epoch)].astype(float)
            assert cells.counts[i, j] == len(mine)
            for name, values in {"x": mine, "right": mine > 0}.items():
                wanted = values.mean() if len(mine) else np.nan
                np.testing.assert_allclose(cells.values[name][i, j], wanted, rtol=1e-12)


def test_what_is_not_finite_stays_in_its_cell():
    cells = cells_of(np.array([0, 0, 1]), np.array([0, 1, 0]), {"x": np.array([np.nan, 2.0, np.inf])})
    np.testing.assert_array_equal(cells.values["x"], [[np.nan, 2.0], [np.inf, np.nan]])


def test_matched_by_all_keys():
    rng = np.random.default_rng(0)
    mine = {"example_id": rng.integers(0, 6, 50), "epoch": rng.integers(0, 6, 50)}
    pairs = [(i, e) for i in range(4) for e in range(5)]
    rng.shuffle(pairs)
    theirs = {"example_id": np.array([i for i, _ in pairs]), "epoch": np.array([e for _, e in pairs])}
    wanted = [
        next((k for k, pair in enumerate(pairs) if tuple(pair) == one), -1) for one in zip(*mine.values(), strict=True)
    ]
    assert matched(mine, theirs).tolist() == wanted
    assert -1 in wanted


def test_matched_with_nothing():
    empty = np.zeros(0, np.int64)
    assert matched({"a": np.arange(2)}, {"a": empty}).tolist() == [-1, -1]
    assert matched({"a": empty}, {"a": np.arange(2)}).tolist() == []


def test_several_rows_for_one_are_an_error_only_where_asked_for():
    theirs = {"example_id": np.array([1, 1, 2]), "epoch": np.array([0, 0, 0])}
    assert matched({"example_id": np.array([2]), "epoch": np.array([0])}, theirs).tolist() == [2]
    with pytest.raises(ValueError, match="one row for each example_id and epoch, got 2 for example_id 1, epoch 0"):
        matched({"example_id": np.array([2, 1]), "epoch": np.array([0, 0])}, theirs)
