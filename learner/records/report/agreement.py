"""Samples that one run has right and another has not, where both recorded the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastcore.xml import FT, H3, P, Small

from learner.records.report.groups import Group
from learner.records.report.notes import Notes
from learner.records.report.tables import plain_values, sortable
from learner.records.report.thumbnails import texts, thumbnails
from learner.records.samples import Samples

MOST_ROWS = 500


class Rated(NamedTuple):
    """Which samples a run had right when they came last.

    Attributes:
        samples: the rows.
        ids: of the samples, rising.
        is_right: one flag each.
    """

    samples: Samples
    ids: np.ndarray
    is_right: np.ndarray


def rated(group: Group) -> Rated | None:
    """Return which samples of a group were right in its last epoch; None where that was not recorded.

    Of a sample that came several times the mean decides.
    """
    newest, has = group.newest, set(group.newest.scalars)
    if not {"example_id", "label", "predicted"} <= has or newest.fingerprint is None:
        return None
    right = newest.words("label") == newest.words("predicted")
    ids, which = np.unique(newest.numpy("example_id"), return_inverse=True)
    share = np.bincount(which, right, minlength=len(ids)) / np.bincount(which, minlength=len(ids))
    return Rated(newest, ids, share > 0.5)


def agreement(groups: Mapping[str, Sequence[Group]], notes: Notes) -> list[FT]:
    """Return for each split that several runs recorded of the same data what one has right and another has not.

    Args:
        groups: the samples on record, by name of the run.
        notes: takes what cannot be read.
    """
    found: dict[tuple[str, str], dict[str, Rated]] = {}
    for run, of_run in groups.items():
        for group in of_run:
            one = notes.tried(f"samples of {group.title} in {run}", rated, group)
            if one is not None:
                found.setdefault((group.title, one.samples.fingerprint), {})[run] = one
    several = {key: by_run for key, by_run in found.items() if len(by_run) > 1}
    titles = [title for title, _ in several]
    parts: list[FT] = []
    for (title, fingerprint), by_run in sorted(several.items(), key=lambda item: item[0][0].startswith("train")):
        name = title if titles.count(title) == 1 else f"{title} of {fingerprint[:8]}"
        parts += notes.tried(f"agreement on {name}", _agreement, name, by_run, notes) or []
    return parts


def _agreement(title: str, by_run: Mapping[str, Rated], notes: Notes) -> list[FT]:
    runs = list(by_run)
    ids = by_run[runs[0]].ids
    for run in runs[1:]:
        ids = np.intersect1d(ids, by_run[run].ids, assume_unique=True)
    right = np.stack([one.is_right[np.searchsorted(one.ids, ids)] for one in by_run.values()])
    only = {run: [int((row & ~other).sum()) for row in right] for run, other in zip(runs, right, strict=True)}
    pairs = sortable({"right, and wrong in": runs, **only}, style="short", label=f"right in one run, {title}")
    told = f"{len(ids):,} samples in all; {right.all(0).sum():,} right in each, {(~right).all(0).sum():,} in none"
    unlike = np.flatnonzero(right.any(0) & ~right.all(0))
    order = unlike[np.argsort(right[:, unlike].sum(0), kind="stable")]  # what most have wrong comes first
    parts = [H3(title, Small(told)), pairs]
    if not len(order):
        return [*parts, P("They have the same samples right.", cls="quiet")]
    shown = order[:MOST_ROWS]
    if len(shown) < len(order):
        parts.append(P(f"Of {len(order):,} samples that some have right, {len(shown):,} are shown.", cls="quiet"))
    return [*parts, _table(title, by_run, ids[shown], right[:, shown], notes)]


def _table(title: str, by_run: Mapping[str, Rated], ids: np.ndarray, right: np.ndarray, notes: Notes) -> FT:
    first = next(iter(by_run.values())).samples
    listed = ids.tolist()
    columns: dict[str, Sequence[Any]] = {"example_id": listed, **texts(first, listed, notes)}
    columns["label"] = _words(first, "label", ids)
    columns["right in"] = right.sum(0).tolist()
    columns |= {run: _words(one.samples, "predicted", ids) for run, one in by_run.items()}
    return sortable(
        columns,
        thumbnails(first, listed, notes),
        sorted_by=("right in", "ascending"),
        has_filters=True,
        style="low",
        label=f"samples that some have right, {title}",
    )


def _words(samples: Samples, column: str, ids: np.ndarray) -> list[Any]:
    """Return the values of a column for these samples, the last of several."""
    found = samples.numpy("example_id")
    last = len(found) - 1 - np.unique(found[::-1], return_index=True)[1]
    places = last[np.searchsorted(found[last], ids)]
    return plain_values(samples.words(column)[places])
