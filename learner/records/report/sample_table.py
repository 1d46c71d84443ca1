"""The table of samples: the newest rows of all groups, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastcore.xml import FT, P

from learner.records.report.groups import Group
from learner.records.report.notes import Notes
from learner.records.report.tables import plain_values, sortable
from learner.records.report.thumbnails import texts, thumbnails

MOST_ROWS = 2000  # more would make the page slow, and nobody reads them
_FIRST = ("example_id", "sample", "label", "predicted", "loss")


def sample_table(groups: Sequence[Group], notes: Notes) -> list[FT]:
    """Return a table with a share for each group, as many rows as a page can hold, and words for what is left out."""
    rows: list[dict[str, Any]] = []
    words = {}
    rest = MOST_ROWS
    for i, group in enumerate(sorted(groups, key=lambda group: len(group.newest))):
        shown = notes.tried(f"rows of {group.title}", _rows, group, rest // (len(groups) - i), notes) or []
        rows += shown
        rest -= len(shown)
        words[group] = f"{group.title}: {group.when}" + group.left_out(len(shown))
    if not rows:
        return []
    has_loss = any("loss" in row for row in rows)
    if has_loss:
        rows.sort(key=_by_loss)
    names = list(dict.fromkeys(name for row in rows for name in row if name))
    names.sort(key=lambda name: (name != "split", _FIRST.index(name) if name in _FIRST else len(_FIRST)))
    table = sortable(
        {name: [row.get(name) for row in rows] for name in names if name != "split" or len(groups) > 1},
        [row[""] for row in rows],
        [_is_wrong(row) for row in rows],
        ("loss", "descending") if has_loss else ("", ""),
        has_filters=True,
        label="samples",
    )
    return [P("; ".join(words[group] for group in groups) + ".", cls="quiet"), table]


def _rows(group: Group, k: int, notes: Notes) -> list[dict[str, Any]]:
    """Return the k worst rows of a group; their pictures have no name, which no column has."""
    worst = group.worst(k)
    names = [name for name in worst.scalars if name not in ("epoch", "step", "split")]
    ids = worst.numpy("example_id").tolist()
    columns = {
        "split": [group.title] * len(worst),
        "": thumbnails(worst, ids, notes),
        **texts(worst, ids, notes),
        **{name: plain_values(worst.words(name)) for name in names},
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _is_wrong(row: Mapping[str, Any]) -> bool:
    label, predicted = row.get("label"), row.get("predicted")
    return type(label) is type(predicted) and label != predicted  # a name and an id cannot be compared


def _by_loss(row: Mapping[str, Any]) -> tuple[bool, float]:
    loss = row.get("loss")
    is_known = isinstance(loss, int | float) and loss == loss
    return (False, -loss) if is_known else (True, 0.0)  # type: ignore[operator]
