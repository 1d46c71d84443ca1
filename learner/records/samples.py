"""Samples on record: which are worst, how they are spread, how they changed, what they look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.data.batch import describe
from learner.errors import LearnerError
from learner.records.choosing import checked_k, class_id
from learner.records.keys import matched
from learner.records.listing import Listing
from learner.records.sample_rows import SampleRows
from learner.records.schema import CategoricalLabel
from learner.records.writer import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from learner.records.table import Table


class Samples(SampleRows):
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
        super().__init__(parts, aggregates)
        tables = table if isinstance(table, list | tuple) else [] if table is None else [table]
        self._tables: tuple[Any, ...] = tuple(tables)
        self._holder = holder

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
        if all(len(samples.epochs) > 1 for samples in (self, other)):
            keys.append("epoch")
        places = matched(self._arrays(keys), other._arrays(keys))
        return self._beside(other, names, places)

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
        return histogram(last._numbers(column).astype(np.float64), column, ids=ids, when=when)

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
        known = last.schema(label) or last.schema(predicted)
        true, said = last.numpy(label), last.numpy(predicted)
        if known is None:
            names = np.unique([true, said])
            known = CategoricalLabel(label, [str(name) for name in names.tolist()])
            true, said = np.searchsorted(names, true), np.searchsorted(names, said)
        if cell is None:
            return confusion_matrix(true, said, known.classes, when)
        row, column = (class_id("cell", known, value) for value in cell)
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

        epochs = self.epochs.tolist()
        each = {f"epoch {epoch:g}": self.where(epoch=epoch) for epoch in epochs} if epochs else {"": self}
        colors = None if color is None else [one.words(color) for one in each.values()]
        label = None if color is None else self.schema(color)
        return plane_map(
            {title: partial(one._vectors, column) for title, one in each.items()},
            column,
            by=by,
            colors=colors,
            color_name=color or "",
            classes=() if label is None else label.classes,
        )

    def _last(self) -> tuple[Samples, str]:
        """Return the rows of the last epoch, all if there are none, and words that say which those are."""
        epochs = self.epochs
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
