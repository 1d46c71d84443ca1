"""What shows a sample in a row of a table: a small picture before it, or its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learner.data.generators import preserved_rng
from learner.records.report.embedded import thumbnail
from learner.records.report.excerpts import excerpts
from learner.records.report.images import image_of
from learner.records.report.notes import Notes
from learner.records.samples import Samples


def thumbnails(samples: Samples, ids: Sequence[int], notes: Notes) -> list[str | None]:
    """Return small pictures of samples; none if they are no images, or it is not known what they are."""
    none: list[str | None] = [None] * len(ids)
    table = samples.table
    if table is None:
        return none
    return notes.tried(f"pictures of {table.name}", _pictures_of, table.collect_view(), ids) or none


def texts(samples: Samples, ids: Sequence[int], notes: Notes) -> dict[str, list[str]]:
    """Return the text of samples as a column "sample"; none if they are no text, or it is not known what they are."""
    table = samples.table
    if table is None or "sample" in samples.columns:
        return {}
    found = notes.tried(f"texts of {table.name}", excerpts, table, ids)
    return {"sample": found} if found else {}


def _pictures_of(view: Any, ids: Sequence[int]) -> list[str | None]:
    with preserved_rng():  # samples may be made at random
        found: list[str | None] = []
        for i in ids:
            image = image_of(view[i])
            if image is None and not any(found):
                return []  # these are no images, and to look at all of them may take long
            found.append(None if image is None else thumbnail(image))
    return found
