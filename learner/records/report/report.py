"""The report of a run: one page with what ran, its curves, its pictures and its samples. Start at `write_report`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from fastcore.xml import FT, H1, H2, H3, A, Body, Div, Header, Li, Nav, P, Section, Small, Span, Strong, Ul

from learner.data.generators import preserved_rng
from learner.records.dynamics import Dynamics, dynamics
from learner.records.report.images import image_of
from learner.records.report.page import (
    N_COLORS,
    facts,
    kept_picture,
    line_chart,
    page,
    picture,
    said,
    sortable,
    thumbnail,
)
from learner.records.samples import Samples
from learner.records.scalars import Series
from learner.records.writer import writing

if TYPE_CHECKING:
    from learner.records.run import Run

MOST_ROWS = 2000  # of samples in the table: more would make the page slow, and nobody reads them
MOST_SUSPECTS = 24
MOST_MAPS = 4  # epochs of which the vectors are drawn
MOST_FIGURES = 40
MOST_CONFIG = 10  # of it in the header; all is below
_SPLITS = ("train", "valid", "val", "test")
_FIRST = ("example_id", "label", "predicted", "loss")
_FOR_DYNAMICS = {"example_id", "epoch", "true_probability", "accuracy"}


def write_report(run: Run, path: str | os.PathLike[str] | None = None) -> Path:
    """Write what a run has on record as one page that needs no server, no network and no other file.

    What cannot be read is left out, and the page says so; the rest is there.

    Args:
        run: the run; its samples have pictures if their table was registered in this process, and they are images.
        path: the file; `report.html` in the run's folder if None.

    Returns:
        The file. It has its name when it is whole, so a page that was there is there until then.

    Raises:
        LearnerError: if the file cannot be written.
    """
    where = run.path / "report.html" if path is None else Path(path)
    name = str(run.info["name"])
    text = page(name, _Report(run).body())
    new = where.with_name(f"{where.name}.tmp")
    with writing(where):
        new.write_text(text, encoding="utf-8", errors="replace")  # names may hold what no encoding knows
        os.replace(new, where)
    return where


# By metric and axis, then by split: the series of train and valid belong side by side.
_Metrics = dict[tuple[str, str], dict[str, Series]]


class _Report:
    """Gathers the sections of a page, and what could not be shown."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._notes: list[str] = []

    def body(self) -> FT:
        """Return all of the page."""
        groups = list(self._groups())
        groups = self._tried("names of splits", _called_by_split, groups) or groups
        metrics = self._metrics()
        sections = [
            ("Curves", self._curves(metrics)),
            ("Last values", _last_values(metrics)),
            *((f"Samples of {group.title}", self._of_group(group)) for group in groups),
            ("Samples", self._tried("table of samples", self._sample_table, groups)),
            ("Figures", self._figures()),
            ("What ran", self._what_ran()),
        ]
        shown = [(title, content) for title, content in sections if content]
        parts = [Section(H2(title), *content, id=_anchor(title)) for title, content in shown]
        return Body(self._header([title for title, _ in shown]), *parts)

    def _tried(self, what: str, make: Callable[..., Any], *given: Any) -> Any:
        """Return what a function gives; None if it fails, and the page says why.

        Whatever fails: a page that lacks a picture is worth more than none after hours of training.
        """
        try:
            return make(*given)
        except Exception as error:
            self._notes.append(f"{what[0].upper()}{what[1:]}: {error} ({type(error).__name__})")
            return None

    # -- what ran --------------------------------------------------------------------------------------------------

    def _header(self, titles: Sequence[str]) -> FT:
        info = self._run.info
        learner = info.get("learner", {})
        status = str(info["status"])
        words = [str(info["created"])[:16].replace("T", " ") + " UTC"]
        if "model" in learner:
            words.append(f"{learner['model']}, {learner['n_parameters']:,} parameters")
        words += [f"{name}, {n_rows:,} rows" for name, n_rows, _ in self._tables()]
        versions = [f"{name} {version}" for name, version in self._versions().items()]
        config = [f"{name} {said(value)}" for name, value in info["config"].items()]
        more = [f"and {len(config) - MOST_CONFIG} more"] * (len(config) > MOST_CONFIG)
        lines = [words, [*versions, *self._git(10)], [*config[:MOST_CONFIG], *more]]
        links = [A(title, href=f"#{_anchor(title)}") for title in titles]
        error = [Div(Strong("It failed. "), str(info["error"]), cls="card notes")] if info.get("error") else []
        return Header(
            Div(H1(str(info["name"])), Span(status, cls=f"status {_anchor(status)}"), cls="title"),
            *[P(" · ".join(line), cls="quiet") for line in lines if line],
            Nav(*links, aria_label="sections"),
            *error,
            *self._said_missing(),
        )

    def _said_missing(self) -> list[FT]:
        if not self._notes:
            return []
        listed = Ul(*[Li(note) for note in dict.fromkeys(self._notes)])
        return [Div(Strong("Not all of this run could be shown"), listed, cls="card notes", role="note")]

    def _what_ran(self) -> list[FT]:
        info = self._run.info
        general = [
            ("folder", self._run.path),
            ("command", " ".join(info.get("command", [])) or None),
            ("seed", info.get("seed")),
            ("git", said(self._git()) or None),
            *self._versions().items(),
        ]
        tables = [(name, f"{n_rows:,} rows, fingerprint {known}") for name, n_rows, known in self._tables()]
        training = list(info.get("learner", {}).items())
        blocks = {"Run": general, "Config": list(info["config"].items()), "Training": training, "Tables": tables}
        cards = [Div(H3(title), facts(rows), cls="card") for title, rows in blocks.items() if rows]
        return [Div(*cards, cls="cards pictures")]

    def _tables(self) -> list[tuple[str, int, str]]:
        """Return name, number of rows and fingerprint of each table."""
        return [(table["name"], table["n_rows"], known) for known, table in self._run.info["tables"].items()]

    def _versions(self) -> dict[str, str]:
        return {name: version for name, version in self._run.info.get("versions", {}).items() if version}

    def _git(self, n_digits: int = 40) -> list[str]:
        git = self._run.info.get("git")
        return [f"commit {git['commit'][:n_digits]}{', with changes' * bool(git['is_dirty'])}"] if git else []

    # -- scalars ---------------------------------------------------------------------------------------------------

    def _metrics(self) -> _Metrics:
        splits = {*_SPLITS, *self._run.info.get("learner", {}).get("n_batches", {})}
        found: _Metrics = {}
        for name, series in (self._tried("scalars", self._run.scalars) or {}).items():
            split, metric = _parted(name, splits)
            lines = found.setdefault((metric, series.axis), {})
            lines[split if split not in lines else name] = series
        # The loss first; what was logged under a plain name before what is a part of something.
        return dict(sorted(found.items(), key=lambda item: (item[0][0].count("/"), item[0][0] != "loss")))

    def _curves(self, metrics: _Metrics) -> list[FT]:
        charts = []
        for (metric, axis), lines in metrics.items():
            names = list(lines)
            if all(len(line.x) < 2 for line in lines.values()):
                continue  # one number is no curve; it stands among the last values
            for i in range(0, len(names), N_COLORS):
                few = {name: (lines[name].x, lines[name].values) for name in names[i : i + N_COLORS]}
                charts.append(self._tried(f"curve of {metric}", line_chart, metric, axis, few))
        return [Div(*charts, cls="cards")] if charts else []

    # -- samples ---------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[_Group]:
        """Give the samples on record that belong together: those of a name, which come epoch by epoch."""
        found: dict[str, dict[Any, list[Path]]] = {}
        for path in sorted((self._run.path / "samples").glob("*.parquet")):
            kind = self._tried("samples", self._kind, path)
            if kind is not None:
                found.setdefault(re.sub(r"-\d+$", "", path.stem), {}).setdefault(kind, []).append(path)
        for name, kinds in found.items():
            for paths in kinds.values():
                title = name if len(kinds) == 1 else paths[-1].stem
                group = self._tried(f"samples of {title}", self._group, title, paths)
                if group is not None:
                    yield group

    def _kind(self, path: Path) -> Any:
        """Return what samples of one group have in common; None of a file that cannot be read, after a note."""
        samples = self._run.samples_of([path])
        self._tried("samples", lambda: samples.columns)
        samples = samples.intact()
        return (samples.scalars, samples.fingerprint) if len(samples) else None

    def _group(self, title: str, paths: Sequence[Path]) -> _Group:
        samples = self._run.samples_of(paths).intact()
        if "epoch" in samples.scalars:
            epoch = samples.numpy("epoch").max()
            newest = samples.where(epoch=epoch)
            return _Group(title, samples, newest, f"{len(newest):,} rows, epoch {epoch}")
        newest = self._run.samples_of(paths[-1:]).intact()  # each is a recording of its own
        others = f", the last of {len(paths)} recordings" if len(paths) > 1 else ""
        return _Group(title, newest, newest, f"{len(newest):,} rows{others}")

    def _of_group(self, group: _Group) -> list[FT]:
        has = set(group.samples.scalars)
        of = f" of {group.title}"
        pictures = []
        learned: Dynamics | None = None
        if has >= _FOR_DYNAMICS and len(np.unique(group.samples.numpy("epoch"))) > 1:
            learned = self._tried(f"how samples{of} were learned", dynamics, group.samples)
        if learned is not None:
            pictures.append(self._drawn("data map" + of, learned.plot, "How the samples were learned"))
        if "loss" in has:
            pictures.append(self._drawn("loss" + of, group.newest.plot_histogram, "Loss"))
        if has >= {"label", "predicted"}:
            pictures.append(
                self._drawn("confusion matrix" + of, group.newest.plot_confusion, "What was taken for what")
            )
        color = "label" if "label" in has else None
        for name in group.samples.columns:
            if name not in has:
                make = lambda name=name: _few_epochs(group.samples).plot_map(name, color=color)  # noqa: E731
                pictures.append(self._drawn(f"map of {name}{of}", make, f"Map of {name}", is_wide=True))
        suspects = self._tried(f"suspects{of}", self._suspects, learned) if learned and "predicted" in has else None
        shown = [one for one in pictures if one is not None]
        return [P(group.when, cls="quiet"), Div(*shown, cls="cards pictures"), *(suspects or [])] if shown else []

    def _drawn(self, what: str, make: Callable[[], Any], caption: str, is_wide: bool = False) -> FT | None:
        return self._tried(what, lambda: picture(make, caption, is_wide=is_wide))

    def _suspects(self, learned: Dynamics) -> list[FT]:
        found = learned.suspects(MOST_SUSPECTS)
        columns = {name: _plain(values) for name, values in found.columns.items()}
        images = self._thumbnails(learned.samples, columns["example_id"])
        by = "area under the margin" if not np.isnan(learned.aum).all() else "confidence"
        title = H3("Labels most likely wrong", Small(f"the first {len(found)} by {by}"))
        return [title, sortable(columns, images, style="low", label="labels most likely wrong")]

    def _sample_table(self, groups: Sequence[_Group]) -> list[FT]:
        rows: list[dict[str, Any]] = []
        words = {}
        rest = MOST_ROWS
        for i, group in enumerate(sorted(groups, key=lambda group: len(group.newest))):
            shown = self._tried(f"rows of {group.title}", self._rows, group, rest // (len(groups) - i)) or []
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

    def _rows(self, group: _Group, k: int) -> list[dict[str, Any]]:
        """Return the k worst rows of a group; their pictures have no name, which no column has."""
        worst = group.worst(k)
        names = [name for name in worst.scalars if name not in ("epoch", "step", "split")]
        images = self._thumbnails(worst, worst.numpy("example_id").tolist())
        columns = {
            "split": [group.title] * len(worst),
            "": images,
            **{name: _plain(worst.words(name)) for name in names},
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _thumbnails(self, samples: Samples, ids: Sequence[int]) -> list[str | None]:
        """Return small pictures of samples; none if they are no images, or it is not known what they are."""
        none: list[str | None] = [None] * len(ids)
        table = samples.table
        if table is None:
            return none
        return self._tried(f"pictures of {table.name}", _pictures_of, table.collect_view(), ids) or none

    # -- figures ---------------------------------------------------------------------------------------------------

    def _figures(self) -> list[FT]:
        files = sorted((self._run.path / "figures").glob("*.png"))
        shown = [self._tried(f"figure {file.stem}", _kept, file) for file in files[:MOST_FIGURES]]
        left_out = len(files) - len(shown)
        more = [P(f"{left_out:,} more are in the folder `figures`.", cls="quiet")] if left_out else []
        return [Div(*shown, cls="cards pictures"), *more] if shown else []


class _Group(NamedTuple):
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


def _called_by_split(groups: list[_Group]) -> list[_Group]:
    """Return the groups with the name of their split, where one alone is of it: it says more than that of the files."""
    splits = [[split for split in group.newest.splits if split not in ("", "None")] for group in groups]
    return [
        group._replace(title=split[0]) if len(split) == 1 and splits.count(split) == 1 else group
        for group, split in zip(groups, splits, strict=True)
    ]


def _few_epochs(samples: Samples) -> Samples:
    """Return the samples of at most so many epochs as can be taken in at a glance, the first and the last of them."""
    if "epoch" not in samples.scalars:
        return samples
    epochs = np.unique(samples.numpy("epoch"))
    chosen = epochs[np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_MAPS)).round().astype(int)]
    return samples.where(epoch=chosen.tolist())


def _kept(file: Path) -> FT:
    return kept_picture(file.read_bytes(), file.stem)


def _pictures_of(view: Any, ids: Sequence[int]) -> list[str | None]:
    with preserved_rng():  # samples may be made at random
        found: list[str | None] = []
        for i in ids:
            image = image_of(view[i])
            if image is None and not any(found):
                return []  # these are no images, and to look at all of them may take long
            found.append(None if image is None else thumbnail(image))
    return found


def _plain(values: np.ndarray) -> list[Any]:
    """Return an array as Python's own values; float32 with the digits that it has."""
    if values.dtype in (np.float16, np.float32):
        return [float(str(value)) for value in values]
    return values.tolist()  # type: ignore[no-any-return]


def _is_wrong(row: Mapping[str, Any]) -> bool:
    label, predicted = row.get("label"), row.get("predicted")
    return type(label) is type(predicted) and label != predicted  # a name and an id cannot be compared


def _by_loss(row: Mapping[str, Any]) -> tuple[bool, float]:
    loss = row.get("loss")
    is_known = isinstance(loss, int | float) and loss == loss
    return (False, -loss) if is_known else (True, 0.0)  # type: ignore[operator]


def _parted(name: str, splits: set[str]) -> tuple[str, str]:
    """Return the split that the name of a scalar begins with or holds, and the name without it."""
    parts = name.split("/")
    split = next((part for part in parts if part in splits), None)
    if split is None or len(parts) == 1:
        return "", name
    parts.remove(split)
    return split, "/".join(parts)


def _last_values(metrics: _Metrics) -> list[FT]:
    if not metrics:
        return []
    columns: dict[str, list[Any]] = {"metric": [metric for metric, _ in metrics]}
    columns["at"] = [_at(axis, lines) for (_, axis), lines in metrics.items()]
    for split in dict.fromkeys(split for lines in metrics.values() for split in lines):
        last = [lines[split].values[-1] if split in lines else None for lines in metrics.values()]
        columns[split or "value"] = last
    return [sortable(columns, style="short", label="last values")]


def _at(axis: str, lines: Mapping[str, Series]) -> str:
    last = {series.x[-1] for series in lines.values()}
    return f"{axis} " + " and ".join(f"{x:g}" for x in sorted(last))


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
