"""Samples on record: which are worst, how they are spread, how they changed; read from files, column by column."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from learner.data.batch import describe
from learner.data.signature import nearest
from learner.errors import LearnerError
from learner.records.arrow import pyarrow, to_numpy
from learner.records.keys import Cells, Pivot, cells_of, matched
from learner.records.listing import Listing, pandas
from learner.records.parts import Part, Parts
from learner.records.schema import CategoricalLabel
from learner.records.writer import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from learner.records.table import Table

_NO_WORD = "(missing)"
_CLASS_IDS = ("label", "predicted")  # as collectors call them; no numbers to be averaged, also where they have no names


class Samples:
    """Rows of what was measured of samples: one per sample, or one for each time it was looked at.

    The files are read when a column is asked for, and only that column; selections are made of row numbers. Columns
    that hold a vector per sample are read only by name. Where a part has no such column, numbers are NaN, words None,
    class ids -1.

    A file that is cut short or gone is an error that names it, as soon as something of it is needed; `intact()` are
    the others.

    Args:
        parts: Parquet files `…/samples/x.parquet`, with vectors as `…/vectors/x.{column}.parquet`; or Arrow tables.
        table: what the samples are of, to show them; several if the parts are of several.
        aggregates: means by column, as the collection has them; computed if None.
        holder: kept as long as the samples are, as the temporary directory that the files are in.

    Raises:
        TypeError: if a part is something else.
        ValueError: from all that take the name of a column, if there is none of that name.
        LearnerError: when a file cannot be read, or the parts do not go together.

    Example:
        >>> from learner.records.arrow import to_arrow
        >>> label = CategoricalLabel("label", ["cat", "dog"])
        >>> columns = {"example_id": np.arange(4), "label": np.array([0, 1, 1, 0]), "loss": np.array([0.1, 3, 1, 0.2])}
        >>> samples = Samples([to_arrow(columns, {"label": label})])
        >>> samples
        Samples: 4 rows in 1 part; example_id label loss
        >>> samples.top("loss", 2).numpy("example_id")
        array([1, 2])
        >>> samples.where(label="cat", loss=lambda loss: loss < 0.2).numpy("example_id")
        array([0])
        >>> samples.by("label")
        label  count    loss
          cat      2  0.1500
          dog      2  2.0000
    """

    def __init__(
        self,
        parts: Sequence[Path | Any],
        *,
        table: Table | Sequence[Table] | None = None,
        aggregates: Mapping[str, float] | None = None,
        holder: object = None,
    ) -> None:
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise TypeError(f"`parts` must be a list of files or Arrow tables, got {type(parts).__name__}.")
        self._parts = Parts(Part(part) for part in parts)
        tables = table if isinstance(table, list | tuple) else [] if table is None else [table]
        self._tables: tuple[Any, ...] = tuple(tables)
        self._aggregates = aggregates
        self._holder = holder
        self._chosen: np.ndarray | None = None
        self._joins: tuple[_Join, ...] = ()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, those of vectors last."""
        mine = (*self._parts.scalars, *self._parts.vectors)
        return (*mine, *(name for join in self._joins for name in join.names))

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the columns that hold one value per sample; known without opening a file of vectors."""
        return tuple(self._kinds())

    def numpy(self, name: str) -> np.ndarray:
        """Return a column: (N,), or (N, width) of vectors; of class names their ids, see `classes`."""
        values = self._arrays([name])[name]
        return values if values.flags.writeable else values.copy()  # torch warns of what cannot be written to

    def classes(self, name: str) -> tuple[str, ...]:
        """Return the class names of a column by id.

        Raises:
            ValueError: if it has none.
        """
        label = self._label(self._checked(name))
        if label is None:
            raise ValueError(f"`{name}` must have class names, got none; give them as `column_schemas` when recording.")
        return label.classes

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """Return a `pa.Table` of these columns; of all but the vectors if None."""
        names = list(self.scalars if columns is None else columns)
        found = self._read(names)
        return pyarrow().table({name: found[name] for name in names})

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a data frame of these columns, class names as categoricals; of all but the vectors if None.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas()
        return self.to_arrow(columns).to_pandas()

    def intact(self) -> Samples:
        """Return the samples of those files that can be opened; each row, what was chosen before is chosen no more."""
        parts = [part for part in (part.intact() for part in self._parts.parts) if part is not None]
        return self._with(Parts(parts), None, ())

    def __len__(self) -> int:
        return self._parts.n_rows if self._chosen is None else len(self._chosen)

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(self._parts.n_rows) if self._chosen is None else self._chosen

    def _checked(self, name: str) -> str:
        if self._parts.type_of(name) is None and not any(name in join.names for join in self._joins):
            known = ", ".join(self.columns) or "none"
            raise ValueError(f"`{name}` must be a column, got the columns {known}{nearest(str(name), self.columns)}.")
        return name

    def _read(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns as Arrow has them."""
        for name in names:
            self._checked(name)
        mine = [name for name in names if self._parts.type_of(name) is not None]
        table = self._parts.read(mine, self._rows)
        found = {name: table[name] for name in mine}
        for join in self._joins:
            theirs = join.samples._read([join.names[name] for name in names if name in join.names])
            places = pyarrow().array(join.places, mask=join.places < 0)
            found |= {name: theirs[join.names[name]].take(places) for name in names if name in join.names}
        return found

    def _arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: _to_numpy(column, self._label(name)) for name, column in self._read(names).items()}

    def _label(self, name: str) -> CategoricalLabel | None:
        for join in self._joins:
            if name in join.names:
                return join.samples._label(join.names[name])
        return self._parts.label(name)

    def _kinds(self) -> dict[str, Any]:
        """Return the Arrow type of each column of one value per sample."""
        found = {name: kind for name, kind in self._parts.scalars.items() if not _is_list(kind)}
        for join in self._joins:
            theirs = join.samples._kinds()
            found |= {name: theirs[original] for name, original in join.names.items() if original in theirs}
        return found

    def _measures(self) -> list[str]:
        """Return the names of the columns that hold numbers which may be averaged."""
        types = pyarrow().types
        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        found = [name for name, kind in self._kinds().items() if any(is_kind(kind) for is_kind in kinds)]
        return [name for name in found if name not in (*KEYS, *_CLASS_IDS) and self._label(name) is None]

    # -- choosing --------------------------------------------------------------------------------------------------

    def where(self, **conditions: Any) -> Samples:
        """Return the rows that meet all conditions.

        Args:
            **conditions: by column a value, a list of values, or a function of the column's array that gives a bool
                for each row. A column of classes is compared by name or id: `label="cat"`, `label=[0, "dog"]`.

        Raises:
            ValueError: if a class is unknown, or a function does not give one bool for each row.
            TypeError: if words are compared with numbers.
        """
        arrays = self._arrays(list(conditions))
        keep = np.ones(len(self), bool)
        for name, condition in conditions.items():
            keep &= self._meets(name, arrays[name], condition)
        return self._take(np.flatnonzero(keep))

    def top(self, column: str, k: int = 20, *, largest: bool = True) -> Samples:
        """Return the k rows with the largest values, largest first; NaN comes last.

        Args:
            column: of numbers.
            k: how many; fewer if there are not as many.
            largest: whether to begin with the largest, not the smallest.
        """
        values = self._numbers(column)
        return self._take(np.argsort(-values if largest else values, kind="stable")[: checked_k(k)])

    def _meets(self, name: str, values: np.ndarray, condition: Any) -> np.ndarray:
        if callable(condition):
            keep = np.asarray(condition(values))
            if keep.shape != (len(self),) or keep.dtype != bool:
                raise ValueError(
                    f"`{name}` must be a function that gives a bool for each of the {len(self)} rows, got "
                    f"{keep.dtype} of shape {keep.shape}; compare the array, as `lambda {name}: {name} > 2`."
                )
            return keep
        if values.ndim > 1:
            raise TypeError(f"`{name}` must be chosen by a function of the array, for it holds vectors.")
        is_one = isinstance(condition, str) or not hasattr(condition, "__iter__")
        wanted = [condition] if is_one else list(condition)
        label = self._label(name)
        if label is not None:
            wanted = [_class_id(name, label, value) for value in wanted]
        is_words = values.dtype.kind == "O"
        if wrong := [value for value in wanted if isinstance(value, str) != is_words or value is None]:
            holds = "words" if is_words else "numbers"
            raise TypeError(f"`{name}` must be compared with {holds}, which it holds, got {wrong[0]!r}.")
        # In the column's own precision: 0.1 finds what was recorded as a 0.1 in float32.
        of_kind = values.dtype if is_words or values.dtype.kind == "f" else None
        return np.isin(values, np.array(wanted, of_kind))

    def _numbers(self, column: str) -> np.ndarray:
        """Return a column as float64, or say why it is not of numbers."""
        values = self.numpy(column)
        if values.ndim > 1 or values.dtype.kind not in "biuf" or self._label(column) is not None:
            kind = "vectors" if values.ndim > 1 else "words" if values.dtype.kind == "O" else "classes"
            raise ValueError(f"`{column}` must be a column of numbers, got {kind}; there are {self._measures()}.")
        return values.astype(np.float64)

    def _take(self, places: np.ndarray) -> Samples:
        """Return the rows at these places."""
        parts, rows = self._parts.pruned(self._rows[places])
        return self._with(parts, rows, tuple(join.taken(places) for join in self._joins))

    def _with(self, parts: Parts, rows: np.ndarray | None, joins: tuple[_Join, ...]) -> Samples:
        samples = Samples((), table=self._tables, holder=self._holder)
        samples._parts, samples._chosen, samples._joins = parts, rows, joins
        return samples

    # -- putting together ------------------------------------------------------------------------------------------

    @property
    def aggregates(self) -> dict[str, float]:
        """Mean of each column of numbers: as the collection has them, else computed in float64; NaN where one is."""
        if self._aggregates is not None:
            return dict(self._aggregates)
        arrays = self._arrays(self._measures())
        return {name: float(values.mean(dtype=np.float64)) for name, values in arrays.items() if len(values)}

    def by(self, column: str) -> Listing:
        """Return count and means of the columns of numbers for each value of a column; prints as a table.

        Means are NaN where a value is. Rows without a value are a group as well.

        Args:
            column: of classes, words, flags or whole numbers.
        """
        values, label = self.numpy(column), self._label(column)
        if values.ndim > 1 or (values.dtype.kind == "f" and bool((values % 1 > 0).any())):
            raise ValueError(
                f"`{column}` must be of classes, words, flags or whole numbers, got {values.dtype} values."
            )
        # By id, so that classes keep their order.
        found, which = np.unique(values if label is not None else self.words(column), return_inverse=True)
        names = found if label is None else np.array([*label.classes, _NO_WORD])[found]
        arrays = self._arrays([name for name in self._measures() if name != column])
        counts = np.bincount(which, minlength=len(names))
        means = {
            name: np.bincount(which, arrays[name].astype(np.float64), minlength=len(names)) / counts for name in arrays
        }
        return Listing({column: names, "count": counts, **means})

    def pivot(self, column: str) -> Pivot:
        """Return a column of numbers as a matrix of samples by epochs.

        Where a sample comes several times in an epoch (a weighted sampler), the cell is their mean; where it does
        not come, NaN.

        Raises:
            ValueError: if there are no epochs, or several splits: an epoch has a value for each.
        """
        self._numbers(column)
        cells = self.cells([column])
        return Pivot(cells.example_ids, cells.epochs, cells.values[column])

    def cells(self, columns: Sequence[str]) -> Cells:
        """Return columns of numbers as matrices of samples by epochs, as `pivot`, and how often each sample came.

        Raises:
            ValueError: as `pivot`.
        """
        if missing := [name for name in ("example_id", "epoch") if name not in self.scalars]:
            raise ValueError(f"`samples` must have a column {missing[0]!r}, got {', '.join(self.scalars) or 'none'}.")
        splits = self.splits
        if len(splits) > 1:
            raise ValueError(
                f"`samples` must be of one split, got {', '.join(map(repr, splits))}; choose one, as by "
                f"`where(split={splits[0]!r})`."
            )
        arrays = self._arrays(["example_id", "epoch", *columns])
        return cells_of(arrays.pop("example_id"), arrays.pop("epoch"), arrays)

    def join(self, other: Samples, suffix: str = "") -> Samples:
        """Return the same rows with the other's columns, of the same `example_id`; and epoch, where both have several.

        Rows that the other has not get missing values. The other's epoch, step and split are left behind.

        Args:
            other: measured of the same table.
            suffix: added to the other's columns of a name that is taken.

        Raises:
            ValueError: if it is of another table, or it is not known of which; if it has several rows for one of
                these; if a name is taken.
        """
        if not isinstance(other, Samples):
            raise TypeError(f"`other` must be Samples, got {type(other).__name__}.")
        mine, theirs = self.fingerprint, other.fingerprint
        if mine is None or mine != theirs:
            raise ValueError(
                f"`other` must be of the same table, got fingerprints {mine or 'unknown'} and {theirs or 'unknown'}; "
                f"ids mean nothing in another table. Of several tables choose one, as by `where(split=...)`."
            )
        names = {name + suffix * (name in self.columns): name for name in other.columns if name not in KEYS}
        if taken := [name for name in names if name in self.columns]:
            raise ValueError(f"`{taken[0]}` must be in one of the two, got it in both; say `suffix=`, as '_before'.")
        keys = ["example_id"]
        if all(len(samples._epochs()) > 1 for samples in (self, other)):
            keys.append("epoch")
        places = matched(self._arrays(keys), other._arrays(keys))
        return self._with(self._parts, self._chosen, (*self._joins, _Join(other, names, places)))

    def _epochs(self) -> np.ndarray:
        """Return the epochs that there are, rising."""
        found = np.unique(self.numpy("epoch")) if "epoch" in self.scalars else np.zeros(0)
        return found[~np.isnan(found)]

    @property
    def splits(self) -> list[str]:
        """The splits that there are; rows of none come as "None"."""
        if "split" not in self.scalars:
            return []
        return sorted(map(str, self._read(["split"])["split"].unique().to_pylist()))

    # -- what they are of ------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the table that all these are of; None if not known, or of several."""
        found = {part.fingerprint for part in self._parts.parts}
        if found == {None} and len(self._tables) == 1:
            return str(self._tables[0].fingerprint)
        return found.pop() if len(found) == 1 else None

    @property
    def table(self) -> Table | None:
        """The table that these are of, if it was given and is as it was then."""
        fingerprint = self.fingerprint
        return next((table for table in self._tables if table.fingerprint == fingerprint), None)

    def show(self, k: int = 9, image: Callable[[Any], Any] | None = None) -> Figure | Listing:
        """Show the first k samples themselves, as they were collected: pictures if they are images, else text.

        Args:
            k: how many; fewer if there are not as many.
            image: a function of a sample that gives what to draw, as `lambda sample: sample[0].reshape(8, 8)`.

        Raises:
            LearnerError: if the table is not known, or has changed.
        """
        from learner.records.report.excerpts import excerpts
        from learner.records.report.images import image_of, sample_grid

        first = self._take(np.arange(min(checked_k(k), len(self))))
        samples = first._originals(first.numpy("example_id"))
        images = [one for sample in samples if (one := image_of(sample, image)) is not None]
        if images and len(images) == len(samples):
            return sample_grid(images, first._captions(), "")
        columns = {name: first.words(name) for name in first.scalars}
        texts = excerpts(first.table, first.numpy("example_id")) if first.table is not None else None
        return Listing({**columns, "sample": texts or [" ".join(str(sample).split())[:100] for sample in samples]})

    def images(self, ids: Sequence[int] | np.ndarray, image: Callable[[Any], Any] | None = None) -> list[np.ndarray]:
        """Return samples as pictures, (H, W) or (H, W, 3) from 0 to 1.

        Args:
            ids: of the samples.
            image: a function of a sample that gives what to draw; what looks like an image if None.

        Raises:
            LearnerError: if the table is not known, or a sample holds no image.
        """
        from learner.records.report.images import image_of

        found = []
        for sample in self._originals(ids):
            picture = image_of(sample, image)
            if picture is None:
                raise LearnerError(
                    f"samples must be images to be drawn, got {describe(sample)}; say what is one in it, as "
                    f"`image=lambda sample: sample[0].reshape(8, 8)`, or look at them by `show()`."
                )
            found.append(picture)
        return found

    def drawable(
        self, ids: Sequence[int] | np.ndarray, image: Callable[[Any], Any] | None = None
    ) -> Sequence[np.ndarray | str]:
        """Return what to draw of samples: their text if they are no images and hold words, else as `images`.

        Raises:
            LearnerError: if the table is not known, or a sample holds neither.
        """
        from learner.records.report.excerpts import excerpts

        table = self.table
        texts = excerpts(table, ids) if table is not None and image is None else None
        return texts or self.images(ids, image)

    def _originals(self, ids: Sequence[int] | np.ndarray) -> list[Any]:
        """Return the samples themselves, as they were collected."""
        table = self.table
        if table is None:
            given = [f"{table.name!r} ({table.fingerprint})" for table in self._tables]
            raise LearnerError(
                f"the table must be known to show samples of it: they are of {self.fingerprint or 'an unknown one'}, "
                f"got {', '.join(given) or 'none'}; pass it as `Samples(..., table=table)`, if it has not changed."
            )
        view = table.collect_view()
        return [view[int(i)] for i in ids]

    def words(self, name: str) -> np.ndarray:
        """Return a column as `numpy` does, but with class names instead of ids; missing words are "(missing)"."""
        label, values = self._label(name), self.numpy(name)
        if label is not None:
            return np.asarray(np.array([*label.classes, _NO_WORD])[values])
        if values.dtype.kind == "O":
            return np.array([_NO_WORD if value is None else value for value in values], str)
        return values

    def _captions(self) -> list[str]:
        """Return what to write over each sample: its id, label, prediction and loss, as far as they are known."""
        forms = {"example_id": "#{}", "label": "{}", "predicted": "said {}", "loss": "loss {:.3g}"}
        known = {name: self.words(name).tolist() for name in forms if name in self.scalars}
        captions = []
        for values in zip(*known.values(), strict=True):
            words = [forms[name].format(value) for name, value in zip(known, values, strict=True)]
            captions.append(", ".join(words[:2]) + "\n" + ", ".join(words[2:]))
        return captions

    # -- pictures --------------------------------------------------------------------------------------------------

    def plot_histogram(self, column: str = "loss") -> Figure:
        """Draw how a column is spread in the last epoch, counts on a log scale, tails marked; return the figure."""
        from learner.records.report.pictures import histogram

        last, when = self._last()
        ids = last.numpy("example_id") if "example_id" in last.scalars else None
        return histogram(last._numbers(column), column, ids=ids, when=when)

    def plot_worst(self, k: int = 16, column: str = "loss", image: Callable[[Any], Any] | None = None) -> Figure:
        """Draw the k samples with the largest values of the last epoch; return the figure.

        Args:
            k: how many.
            column: by which.
            image: a function of a sample that gives what to draw, as `lambda sample: sample[0].reshape(8, 8)`.

        Raises:
            LearnerError: if the table is not known, or its samples are neither images nor text.
        """
        from learner.records.report.images import sample_grid

        last, when = self._last()
        worst = last.top(column, k)
        return sample_grid(
            worst.drawable(worst.numpy("example_id"), image), worst._captions(), f"largest {column}{when}"
        )

    def plot_confusion(
        self,
        label: str = "label",
        predicted: str = "predicted",
        cell: tuple[Any, Any] | None = None,
        image: Callable[[Any], Any] | None = None,
        k: int = 12,
    ) -> Figure:
        """Draw how often which class was taken for which, in the last epoch; return the figure.

        Args:
            label: column of the true classes, as names or ids.
            predicted: column of those that were said.
            cell: a true class and a predicted one, by name or id: draws samples of that cell beside the matrix.
            image: a function of a sample that gives what to draw.
            k: how many of the cell at most.
        """
        from learner.records.report.pictures import confusion_matrix

        last, when = self._last()
        known = last._label(label) or last._label(predicted)
        true, said = last.numpy(label), last.numpy(predicted)
        if known is None:
            names = np.unique([true, said])
            known = CategoricalLabel(label, [str(name) for name in names.tolist()])
            true, said = np.searchsorted(names, true), np.searchsorted(names, said)
        if cell is None:
            return confusion_matrix(true, said, known.classes, when)
        row, column = (_class_id("cell", known, value) for value in cell)
        found = last._take(np.flatnonzero((true == row) & (said == column))[: checked_k(k)])
        return confusion_matrix(
            true,
            said,
            known.classes,
            when,
            cell=(row, column),
            images=found.drawable(found.numpy("example_id"), image),
            captions=found._captions(),
        )

    def plot_map(self, column: str, color: str | None = None, by: Any = "pca") -> Figure:
        """Draw vectors as points on a plane, a panel for each epoch: fitted on the last one, applied to all.

        Args:
            column: of vectors.
            color: column to colour by.
            by: "pca", or something with `fit` and `transform`, as an `umap.UMAP()`.

        Raises:
            ValueError: if the column holds no vectors, or none that are finite.
        """
        from learner.records.report.pictures import plane_map

        epochs = self._epochs().tolist()
        each = {f"epoch {epoch:g}": self.where(epoch=epoch) for epoch in epochs} if epochs else {"": self}
        colors = None if color is None else [one.words(color) for one in each.values()]
        label = None if color is None else self._label(color)
        return plane_map(
            {title: partial(one._vectors, column) for title, one in each.items()},
            column,
            by=by,
            colors=colors,
            color_name=color or "",
            classes=() if label is None else label.classes,
        )

    def last(self) -> Samples:
        """Return the samples of the last epoch; all of them if they are of no epoch.

        Example:
            >>> from learner.records.arrow import to_arrow
            >>> Samples([to_arrow({"epoch": np.array([0, 1, 1]), "loss": np.array([3.0, 2.0, 1.0])})]).last()
            Samples: 2 rows in 1 part; epoch loss
        """
        return self._last()[0]

    def _last(self) -> tuple[Samples, str]:
        """Return the rows of the last epoch, all if there are none, and words that say which those are."""
        epochs = self._epochs()
        last = self.where(epoch=epochs[-1]) if len(epochs) else self
        words = [*(f"epoch {epoch:g}" for epoch in epochs[-1:]), *last.splits]
        return last, "".join(f", {word}" for word in words if word)

    def _vectors(self, column: str) -> np.ndarray:
        values = self.numpy(column)
        if values.ndim != 2:
            raise ValueError(
                f"`{column}` must hold a vector per sample, got shape {values.shape}; choose another column."
            )
        return values

    # -- in words --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        n_parts = len(self._parts.parts)
        try:
            return f"Samples: {len(self):,} rows in {n_parts} part{'s' * (n_parts != 1)}; {' '.join(self.columns)}"
        except LearnerError as error:  # a repr must not fail
            return f"Samples: {n_parts} parts; {error}"

    def _repr_html_(self) -> str:
        from fastcore.xml import Div, NotStr, P, to_xml

        try:
            first = self._take(np.arange(min(5, len(self))))
            table = Listing({name: first.words(name) for name in first.scalars})._repr_html_()
        except LearnerError:
            table = ""
        html: str = to_xml(Div(P(repr(self)), NotStr(table)))
        return html


class _Join(NamedTuple):
    """Columns of other samples: their names here and there, and which of their rows stands beside each of ours."""

    samples: Samples
    names: dict[str, str]
    places: np.ndarray

    def taken(self, chosen: np.ndarray) -> _Join:
        return self._replace(places=self.places[chosen])


def _class_id(name: str, label: CategoricalLabel, value: Any) -> int:
    """Return the id of a class that is given by name or id."""
    if isinstance(value, str):
        if value not in label.classes:
            known = ", ".join(label.classes[:20])
            raise ValueError(f"`{name}` must be one of {known}, got {value!r}{nearest(value, label.classes)}.")
        return label.classes.index(value)
    if (
        isinstance(value, bool)
        or not hasattr(value, "__index__")
        or not -1 <= operator.index(value) < len(label.classes)
    ):
        raise ValueError(f"`{name}` must be a class name or an id from 0 to {len(label.classes) - 1}, got {value!r}.")
    return operator.index(value)


def checked_k(k: Any) -> int:
    """Return a number of rows, or say why it is none."""
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TypeError(f"`k` must be a whole number, got {k!r}.")
    if operator.index(k) < 0:
        raise ValueError(f"`k` must be at least 0, got {k}.")
    return operator.index(k)


def _is_list(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _to_numpy(column: Any, label: CategoricalLabel | None) -> np.ndarray:
    """Return an Arrow column as an array in which what is missing is NaN, None for words, -1 for class ids."""
    pa = pyarrow()
    if column.null_count and pa.types.is_boolean(column.type):
        column = column.cast(pa.float64())
    if column.null_count and pa.types.is_fixed_size_list(column.type):
        known = to_numpy(column.drop_null())
        filled = np.full((len(column), known.shape[1]), np.nan, np.result_type(known, np.float16))
        filled[column.is_valid().to_numpy()] = known
        return filled
    return to_numpy(column, label)
