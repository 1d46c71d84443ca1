"""The report of a run: one page with what ran, its curves, its pictures and its samples. Start at `write_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastcore.xml import FT, H1, Div, P

from learner.errors import LearnerError
from learner.records.files import files_in
from learner.records.report.curves import by_split, curves, last_values
from learner.records.report.embedded import kept_picture
from learner.records.report.far_out import far_out
from learner.records.report.groups import groups_of
from learner.records.report.notes import Notes
from learner.records.report.page import body_of, write_page
from learner.records.report.recovered import recovered
from learner.records.report.sample_pictures import sample_pictures
from learner.records.report.sample_table import sample_table
from learner.records.report.what_ran import failure, header_lines, what_ran
from learner.records.samples import Samples
from learner.records.scalars import Series

MOST_FIGURES = 40
_SPLITS = ("train", "valid", "val", "test")


class Recorded(Protocol):
    """What a report is made of; a `Run` is one.

    Attributes:
        path: the folder, with `samples/` and `figures/` in it.
    """

    path: Path

    @property
    def info(self) -> dict[str, Any]:
        """What ran, as in `run.json`."""

    def scalars(self) -> dict[str, Series]:
        """Return the series that were logged, by name."""

    def samples_of(self, parts: Sequence[Path], /) -> Samples:
        """Return the samples in some files of the folder."""


def write_report(run: Recorded, path: Path) -> None:
    """Write what a run has on record as one page that needs no server, no network and no other file.

    What cannot be read is left out, and the page says so; the rest is there.

    Args:
        run: the run; its samples have pictures if their table was registered in this process, and they are images.
        path: the file. It has its name when it is whole, so a page that was there is there until then.

    Raises:
        LearnerError: if the file cannot be written.
    """
    write_page(path, str(run.info["name"]), _body(run))


def _body(run: Recorded) -> FT:
    """Return all of the page."""
    info, notes = run.info, Notes()
    groups = groups_of(files_in(run.path / "samples", "*.parquet"), run.samples_of, notes)
    splits = {*_SPLITS, *(notes.tried("names of loaders", _loaders, info) or ())}
    metrics = by_split(notes.tried("scalars", run.scalars) or {}, splits)
    sections = [
        ("Curves", curves(metrics, notes)),
        ("Went back to a checkpoint", notes.tried("went back to a checkpoint", recovered, info)),
        ("Batches far out", notes.tried("batches far out", far_out, info, groups)),
        ("Last values", last_values(metrics)),
        *((f"Samples of {group.title}", sample_pictures(group, notes)) for group in groups),
        ("Samples", notes.tried("table of samples", sample_table, groups, notes)),
        ("Figures", _figures(run.path, notes)),
        ("What ran", notes.tried("what ran", what_ran, info, run.path)),
    ]
    lines = notes.tried("header", header_lines, info) or [H1(str(info["name"]))]
    return body_of(lines, sections, [*failure(info), *notes.card()])


def _loaders(info: Mapping[str, Any]) -> list[str]:
    return list(info.get("learner", {}).get("n_batches", {}))


def _figures(folder: Path, notes: Notes) -> list[FT]:
    files = sorted((folder / "figures").glob("*.png"))
    shown = [notes.tried(f"figure {file.stem}", _kept, file, folder) for file in files[:MOST_FIGURES]]
    left_out = len(files) - len(shown)
    more = [P(f"{left_out:,} more are in the folder `figures`.", cls="quiet")] if left_out else []
    return [Div(*shown, cls="cards pictures"), *more] if shown else []


def _kept(file: Path, folder: Path) -> FT:
    if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
        raise LearnerError(
            f"`{file.name}` must be a file in the folder of the run, not a link out of it; copy it there."
        )
    return kept_picture(file.read_bytes(), file.stem.replace("_", " "))
