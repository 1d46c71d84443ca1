"""The pictures of one group of samples: how they were learned, their loss, what was taken for what, maps of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fastcore.xml import FT, H3, Div, P, Small

from learner.records.dynamics import Dynamics, dynamics
from learner.records.report.embedded import picture
from learner.records.report.groups import Group
from learner.records.report.notes import Notes
from learner.records.report.tables import plain_values, sortable
from learner.records.report.thumbnails import texts, thumbnails
from learner.records.samples import Samples

MOST_SUSPECTS = 24
MOST_MAPS = 4  # epochs of which the vectors are drawn
_FOR_DYNAMICS = {"example_id", "epoch", "true_probability", "accuracy"}


def sample_pictures(group: Group, notes: Notes) -> list[FT]:
    """Return all pictures that there can be of what is on record, and the suspects; nothing if there is no picture."""
    has = set(group.samples.scalars)
    of = f" of {group.title}"
    learned = _learned(group, has, of, notes)
    pictures: list[FT | None] = []

    def draw(what: str, make: Callable[[], Any], caption: str, is_wide: bool = False) -> None:
        pictures.append(notes.tried(what + of, lambda: picture(make, caption, is_wide=is_wide)))

    if learned is not None:
        draw("data map", learned.plot, "How the samples were learned")
    if "loss" in has:
        draw("loss", group.newest.plot_histogram, "Loss")
    if has >= {"label", "predicted"}:
        draw("confusion matrix", group.newest.plot_confusion, "Confusion matrix")
    color = "label" if "label" in has else None
    for name in group.samples.columns:
        if name not in has:
            make = lambda name=name: _few_epochs(group.samples).plot_map(name, color=color)  # noqa: E731
            draw(f"map of {name}", make, f"Map of {name}".replace("_", " "), is_wide=True)
    suspects = notes.tried(f"suspects{of}", _suspects, learned, notes) if learned and "predicted" in has else None
    shown = [one for one in pictures if one is not None]
    return [P(group.when, cls="quiet"), Div(*shown, cls="cards pictures"), *(suspects or [])] if shown else []


def _learned(group: Group, has: set[str], of: str, notes: Notes) -> Dynamics | None:
    if not has >= _FOR_DYNAMICS or len(np.unique(group.samples.numpy("epoch"))) < 2:
        return None
    return notes.tried(f"how samples{of} were learned", dynamics, group.samples)  # type: ignore[no-any-return]


def _suspects(learned: Dynamics, notes: Notes) -> list[FT]:
    found = learned.suspects(MOST_SUSPECTS)
    columns = {name: plain_values(values) for name, values in found.columns.items()}
    ids = columns.pop("example_id")
    images = thumbnails(learned.samples, ids, notes)
    columns = {"example_id": ids, **texts(learned.samples, ids, notes), **columns}
    by = "area under the margin" if not np.isnan(learned.aum).all() else "confidence"
    title = H3("Labels most likely wrong", Small(f"the first {len(found)} by {by}"))
    return [title, sortable(columns, images, style="low", label="labels most likely wrong")]


def _few_epochs(samples: Samples) -> Samples:
    """Return the samples of at most so many epochs as can be taken in at a glance, the first and the last of them."""
    if "epoch" not in samples.scalars:
        return samples
    epochs = np.unique(samples.numpy("epoch"))
    chosen = epochs[np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_MAPS)).round().astype(int)]
    return samples.where(epoch=chosen.tolist())
