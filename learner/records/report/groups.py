"""Which of the samples on record belong together: those of one name, which come epoch by epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from learner.records.report.notes import Notes
from learner.records.samples import Samples

SamplesOf = Callable[[Sequence[Path]], Samples]


class Group(NamedTuple):
    """Samples that were recorded under one name.

    Attributes:
        title: the name.
        samples: of all epochs.
        newest: of the last one.
        when: words for how many and which those are.
    """

    title: str
    samples: Samples
    newest: Samples
    when: str

    def worst(self, k: int) -> Samples:
        """Return the k newest rows with the largest loss; the first k if none was recorded."""
        if "loss" in self.newest.scalars:
            return self.newest.top("loss", k)
        return self.newest.top("example_id", k, largest=False)

    def left_out(self, n_shown: int) -> str:
        """Return words for how many rows are not shown; none if all are."""
        n = len(self.newest) - n_shown
        which = "of smaller loss" if "loss" in self.newest.scalars else "that come later"
        return f", {n:,} {which} left out" if n else ""


def groups_of(paths: Iterable[Path], samples_of: SamplesOf, notes: Notes) -> list[Group]:
    """Return the samples in some files by the names of the files, or by their split where that is theirs alone.

    Args:
        paths: Parquet files, `name-0003.parquet` being the fourth recording of that name.
        samples_of: gives the samples in some of the files.
        notes: takes what cannot be read.
    """
    groups = list(_by_name(paths, samples_of, notes))
    return notes.tried("names of splits", _called_by_split, groups) or groups


def _by_name(paths: Iterable[Path], samples_of: SamplesOf, notes: Notes) -> Iterator[Group]:
    found: dict[str, dict[Any, list[Path]]] = {}
    for path in paths:
        kind = notes.tried("samples", _kind, path, samples_of, notes)
        if kind is not None:
            found.setdefault(re.sub(r"-\d+$", "", path.stem), {}).setdefault(kind, []).append(path)
    for name, kinds in found.items():
        for alike in kinds.values():
            title = name if len(kinds) == 1 else alike[-1].stem
            group = notes.tried(f"samples of {title}", _group, title, alike, samples_of)
            if group is not None:
                yield group


def _kind(path: Path, samples_of: SamplesOf, notes: Notes) -> Any:
    """Return what samples of one group have in common; None of a file that cannot be read, after a note."""
    samples = samples_of([path])
    notes.tried("samples", lambda: samples.columns)
    samples = samples.intact()
    return (samples.scalars, samples.fingerprint) if len(samples) else None


def _group(title: str, paths: Sequence[Path], samples_of: SamplesOf) -> Group:
    samples = samples_of(paths).intact()
    if "epoch" in samples.scalars:
        epoch = samples.numpy("epoch").max()
        newest = samples.where(epoch=epoch)
        return Group(title, samples, newest, f"{len(newest):,} rows, epoch {epoch}")
    newest = samples_of(paths[-1:]).intact()  # each is a recording of its own
    others = f", the last of {len(paths)} recordings" if len(paths) > 1 else ""
    return Group(title, newest, newest, f"{len(newest):,} rows{others}")


def _called_by_split(groups: list[Group]) -> list[Group]:
    """Return the groups with the name of their split, where one alone is of it: it says more than that of the files."""
    splits = [[split for split in group.newest.splits if split not in ("", "None")] for group in groups]
    return [
        group._replace(title=split[0]) if len(split) == 1 and splits.count(split) == 1 else group
        for group, split in zip(groups, splits, strict=True)
    ]
