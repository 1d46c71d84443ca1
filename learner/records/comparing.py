"""Compare runs: one page with what differs between them and what came of it. Start at `compare`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from learner.records.info import INFO
from learner.records.run import Run


def compare(runs: Any, path: str | os.PathLike[str] | None = None) -> Path:
    """Write a page that compares runs, which needs no server, no network and no other file; return the file.

    It shows curves over each other; what differs in config, training, versions, code and data; the last values, with
    mean and standard deviation of runs that differ in their seed alone; and the samples that one has right and another
    has not, where the same data was recorded. What cannot be read of a run is left out, and the page says so.

    Args:
        runs: two or more: folders or `Run` objects; or a mapping from names to them; or a folder with runs in it.
        path: the file; `compare.html` in the folder that the first run is in if None.

    Raises:
        TypeError, ValueError: if there are less than two, or one is there twice.
        FileNotFoundError, LearnerError: if one is no run, or only half there; or if the file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for lr in (0.1, 0.2):
        ...     Run.create(folder / f"lr {lr}", config={"lr": lr}).log({"epoch": 0, "valid/loss": 1 - lr})
        >>> compare(folder).name
        'compare.html'
    """
    from learner.records.report.comparison import write_comparison

    found = _named(runs)
    where = next(iter(found.values())).path.parent / "compare.html" if path is None else Path(path).expanduser()
    write_comparison(found, where)
    return where


def _named(runs: Any) -> dict[str, Run]:
    """Return runs by names that tell them apart."""
    if isinstance(runs, str | os.PathLike):
        runs = _inside(Path(runs).expanduser())
    if isinstance(runs, Run) or not isinstance(runs, Iterable):
        raise TypeError(f"`runs` must be several runs, got {runs!r}; do `compare([one, other])`.")
    named = runs if isinstance(runs, Mapping) else None
    opened = [_opened(run) for run in (runs.values() if isinstance(runs, Mapping) else runs)]
    if len(opened) < 2:
        raise ValueError(f"`runs` must be at least two, got {len(opened)}; for one do `run.report()`.")
    folders = [run.path.resolve() for run in opened]
    twice = [str(folder) for folder, n_times in Counter(folders).items() if n_times > 1]
    if twice:
        raise ValueError(f"`runs` must be different runs, got {twice[0]!r} twice; leave one out.")
    names = list(map(str, named)) if named is not None else [str(run.info["name"]) for run in opened]
    if len(set(names)) < len(names):
        top = os.path.commonpath(folders)
        names = [str(folder.relative_to(top)) for folder in folders]
    return dict(zip(names, opened, strict=True))


def _inside(folder: Path) -> list[Path]:
    """Return the runs in a folder, by the names of their folders."""
    if not folder.is_dir():
        raise FileNotFoundError(f"`runs` must be a folder with runs in it, got {str(folder)!r}, which is none.")
    if (folder / INFO).exists():
        raise ValueError(f"`runs` must be several runs, got the folder of one, {str(folder)!r}; do `run.report()`.")
    return sorted(path.parent for path in folder.glob(f"*/{INFO}"))


def _opened(run: Any) -> Run:
    if isinstance(run, str | os.PathLike):
        return Run.open(run)
    if not isinstance(run, Run):
        raise TypeError(f'`runs` must be folders or `Run`s, got {run!r}; do `compare(["runs/one", "runs/other"])`.')
    return run
