"""The page that compares runs: what differs, curves, last values, samples. Start at `write_comparison`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastcore.xml import FT, H1, Div, P

from learner.history import format_value
from learner.records.files import files_in
from learner.records.report.agreement import agreement
from learner.records.report.charts import N_COLORS, line_chart
from learner.records.report.differences import differences, facts_of, seed_groups
from learner.records.report.groups import groups_of
from learner.records.report.notes import Notes
from learner.records.report.page import body_of, write_page
from learner.records.report.report import Recorded
from learner.records.report.tables import sortable
from learner.records.report.what_ran import duration
from learner.records.scalars import Series

Scalars = dict[str, dict[str, Series]]  # by run, then by name


def write_comparison(runs: Mapping[str, Recorded], path: Path) -> None:
    """Write a page that compares runs and needs no server, no network and no other file.

    Args:
        runs: by name.
        path: the file. It has its name when it is whole, so a page that was there is there until then.

    Raises:
        LearnerError: if the file cannot be written.
    """
    names = " and ".join(runs) if len(runs) == 2 else f"{len(runs)} runs"
    write_page(path, f"{names}, compared", _body(runs))


def _body(runs: Mapping[str, Recorded]) -> FT:
    notes = Notes()
    infos = {name: run.info for name, run in runs.items()}
    facts = {name: notes.tried(f"facts of {name}", facts_of, info) or {} for name, info in infos.items()}
    scalars = {name: notes.tried(f"scalars of {name}", run.scalars) or {} for name, run in runs.items()}
    groups = {
        name: groups_of(files_in(run.path / "samples", "*.parquet"), run.samples_of, notes)
        for name, run in runs.items()
    }
    sections = [
        ("Runs", notes.tried("list of runs", _listed, infos)),
        ("What differs", notes.tried("what differs", differences, facts)),
        ("Curves", _curves(scalars, notes)),
        ("Last values", notes.tried("last values", _last_values, scalars, seed_groups(facts))),
        ("Right in one, wrong in another", notes.tried("samples", agreement, groups, notes)),
    ]
    lines = [H1(" · ".join(runs) if len(runs) < 5 else f"{len(runs)} runs, compared"), *_in_common(scalars)]
    return body_of(lines, sections, notes.card("these runs"))


def _in_common(scalars: Scalars) -> list[FT]:
    """Return a word of warning where no value was logged by two runs."""
    names = [name for series in scalars.values() for name in series]
    if len(set(names)) < len(names):
        return []
    return [P("No value was logged by more than one of these runs under the same name.", cls="quiet")]


def _listed(infos: Mapping[str, Mapping[str, Any]]) -> list[FT]:
    learners = [info.get("learner", {}) for info in infos.values()]
    columns: dict[str, Sequence[Any]] = {
        "run": list(infos),
        "how it ended": [str(info["status"]) for info in infos.values()],
        "created, UTC": [str(info["created"])[:16].replace("T", " ") for info in infos.values()],
        "took": [duration(info["seconds"]) if "seconds" in info else None for info in infos.values()],
        "model": [learner.get("model") for learner in learners],
        "parameters": [learner.get("n_parameters") for learner in learners],
        "device": [learner.get("device") for learner in learners],
    }
    known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return [sortable(known, style="short", label="runs")]


def _curves(scalars: Scalars, notes: Notes) -> list[FT]:
    """Return a chart for each value on each axis, with a line for each run that has it."""
    lines: dict[tuple[str, str], dict[str, Series]] = {}
    for run, series in scalars.items():
        for name, one in series.items():
            lines.setdefault((name, one.axis), {})[run] = one
    charts = []
    for (name, axis), by_run in sorted(lines.items(), key=lambda item: _loss_first(item[0][0])):
        if all(len(one.x) < 2 for one in by_run.values()):
            continue  # one number is no curve; it stands among the last values
        runs = list(by_run)
        for i in range(0, len(runs), N_COLORS):
            few = {run: (by_run[run].x, by_run[run].values) for run in runs[i : i + N_COLORS]}
            charts.append(notes.tried(f"curve of {name}", line_chart, name.replace("_", " "), axis, few))
    return [Div(*charts, cls="cards")] if charts else []


def _loss_first(name: str) -> tuple[bool, bool, str, str]:
    """Return what to sort names by: losses first, and train and valid of one metric side by side."""
    return not name.endswith("loss"), "/" not in name, name.rpartition("/")[2], name


def _last_values(scalars: Scalars, groups: Mapping[str, Sequence[str]]) -> list[FT]:
    """Return a table of last values by run, and one with their spread over seeds where some differ in that alone."""
    names = sorted({name for series in scalars.values() for name in series}, key=_loss_first)
    if not names:
        return []
    last = {run: {name: one.values[-1] for name, one in series.items()} for run, series in scalars.items()}
    columns: dict[str, Sequence[Any]] = {"value": names}
    columns |= {run: [values.get(name) for name in names] for run, values in last.items()}
    tables = [sortable(columns, style="short", label="last values")]
    if any(len(runs) > 1 for runs in groups.values()):
        spread: dict[str, Sequence[Any]] = {"mean ± standard deviation": names}
        for words, runs in groups.items():
            found = [[last[run][name] for run in runs if name in last[run]] for name in names]
            spread[f"{words}, {len(runs)} seed{'s' * (len(runs) > 1)}"] = [_spread(values) for values in found]
        told = "Runs that differ in their seed alone, taken together:"
        tables += [P(told, cls="quiet"), sortable(spread, style="short", label="spread over seeds")]
    return tables


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of a sample in words.

    Example:
        >>> _spread([1.0, 2.0]), _spread([0.5]), _spread([])
        ('1.5000 ± 0.7071', '0.5000', '')
    """
    if not values:
        return ""
    middle = format_value(float(mean(values)))
    is_spread = len(values) > 1 and all(map(math.isfinite, values))
    return f"{middle} ± {format_value(stdev(values))}" if is_spread else middle
