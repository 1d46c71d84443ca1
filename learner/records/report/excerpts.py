"""Samples that are text: what of a sample can be read, cut to what fits into a cell of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.data.batch import fields_of
from learner.data.generators import preserved_rng
from learner.records.report.images import image_of

if TYPE_CHECKING:
    from learner.records.table import Table

_MOST_LETTERS = 300


def excerpts(table: Table, ids: Sequence[int] | np.ndarray) -> list[str] | None:
    """Return the text of samples; None if the first is an image or holds no words.

    Where a sample has been turned into numbers by a map of the table, it is the text of the row as it is stored.

    Args:
        table: of the samples.
        ids: of the samples.

    Example:
        >>> from learner.records import Table
        >>> reviews = Table.from_dict({"text": ["a good film", "a bad one"], "label": [1, 0]})
        >>> excerpts(reviews.map(lambda row: (len(row["text"]), row["label"])), [1])
        ['a bad one']
    """
    found: list[str] = []
    view = table.collect_view()
    with preserved_rng():  # samples may be made at random
        for i in map(int, ids):
            sample = view[i]
            text = text_of(sample) or text_of(table.rows[i])
            if not found and (text is None or image_of(sample) is not None):
                return None  # to look at all of them may take long
            found.append(text or "")
    return found or None


def text_of(sample: Any) -> str | None:
    """Return the words in a sample on one line, with their names where there are several; None if there are none.

    Example:
        >>> text_of(("a good film", 1)), text_of({"question": "why?", "answer": "so", "label": 0}), text_of(3)
        ('a good film', 'question: why?, answer: so', None)
    """
    if isinstance(sample, str):
        return _short(sample)
    fields = fields_of(sample)
    parts: Mapping[Any, Any] = fields if fields is not None else {}
    if fields is None and isinstance(sample, tuple | list):
        parts = dict(enumerate(sample))
    words = {name: value for name, value in parts.items() if isinstance(value, str)}
    if len(words) > 1 and fields is not None:
        return _short(", ".join(f"{name}: {value}" for name, value in words.items()))
    return _short(" ".join(words.values())) if words else None


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _MOST_LETTERS].split())
    return line if len(line) <= _MOST_LETTERS else line[:_MOST_LETTERS].rstrip() + "…"
