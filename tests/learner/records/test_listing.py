"""Columns that print as a table."""

import sys

import numpy as np
import pytest

from learner.records.listing import Listing


def test_it_prints_aligned_and_escapes_html():
    listing = Listing({"name": ["a<b", "c"], "n": [1, 20], "x": np.array([0.5, np.nan])})
    assert repr(listing) == "name   n       x\n a<b   1  0.5000\n   c  20     nan"
    assert "a&lt;b" in listing._repr_html_()
    assert len(listing) == 2
    assert listing["n"].tolist() == [1, 20]


def test_long_ones_are_cut_when_printed():
    listing = Listing({"n": np.arange(1031)})
    assert repr(listing).splitlines()[-1] == "... 1,001 more rows"
    assert len(repr(listing).splitlines()) == 32
    assert "1,001 more rows" in listing._repr_html_()


def test_an_unknown_column_is_named():
    with pytest.raises(KeyError, match="`name` must be one of loss, n, got 'los', did you mean 'loss'"):
        Listing({"loss": [1], "n": [1]})["los"]


def test_it_becomes_a_frame(monkeypatch):
    listing = Listing({"n": [1, 2]})
    assert listing.to_pandas()["n"].tolist() == [1, 2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        listing.to_pandas()


def test_an_empty_one_prints():
    assert repr(Listing({"n": []})) == "n"
    assert len(Listing({})) == 0
