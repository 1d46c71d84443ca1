"""Run collectors batch by batch, bring what they give together, write it down and average it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from callbacks.samples.collectors import FunctionalMetricsCollector, MetricsCollector
from callbacks.samples.columns import columns_of
from callbacks.samples.joined import JoinedWriter, added_up, in_order
from learner import LearnerError, PredictorOutput
from learner.ranks.job import ALONE, Job
from learner.records.schema import CategoricalLabel

# Columns stay where they are, on a device maybe, until so many rows wait, or so many bytes; then they are read at once.
N_WAITING = 8192
N_BYTES = 2**22

_Key = tuple[int, str]  # place of the collector, -1 for what is no collector's; name of what it keeps
_Kind = tuple[Any, tuple[int, ...], torch.device | None]  # type, shape of a row, device of a tensor that is elsewhere


class Writer(Protocol):
    """What takes the columns, as `learner.records.writer.SampleWriter`."""

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Write rows; the arrays are used again for others, so what is kept is to be copied."""


class Collection:
    """What collectors make of one pass.

    Args:
        collectors: as `checked_collectors` gives them.
        writer: takes the columns.
        weights: a weight for each sample of the table (n_samples,), or None; means are weighted by it.
        keeps_rows: whether `rows` will be asked for; then all rows of the pass are held in memory, besides the writer.
        job: the processes that train together; the rows of all of them are held in memory and written at the end.
    """

    def __init__(
        self,
        collectors: Iterable[MetricsCollector],
        writer: Writer,
        weights: np.ndarray | None = None,
        *,
        keeps_rows: bool = False,
        job: Job = ALONE,
    ) -> None:
        self.collectors, self._weights = list(collectors), weights
        self._joined = JoinedWriter(writer, job) if job.world > 1 else None
        self._writer: Writer = self._joined or writer
        self._written: list[dict[str, Any]] | None = [] if keeps_rows else None
        # A block for each column, and no list of what batches gave: that might be the memory of a batch, which a loader
        # uses again, and small tensors that live long leave gaps in the memory of the training.
        self._blocks: dict[_Key, np.ndarray | Tensor] = {}
        self._kinds: dict[_Key, _Kind] = {}
        self._n_waiting, self._n_room = 0, 0
        self._sums: dict[str, tuple[float, float]] = {}  # of weighted values, and of weights

    def add(self, batch: Any, output: PredictorOutput, ids: np.ndarray, i: int = 0, /, **keys: int | str) -> None:
        """Collect a batch.

        Args:
            batch: as the loader gave it, on the model's device.
            output: what the predictor gave for it.
            ids: the numbers of its samples (n,).
            i: which batch of the pass it is.
            **keys: columns that are the same for all of them: epoch, step, split and constants.

        Raises:
            LearnerError: if a collector gives something that is no column, or one that another gives too.
        """
        columns: dict[_Key, Any] = {(-1, "example_id"): ids, **{(-1, name): value for name, value in keys.items()}}
        for place, collector in enumerate(self.collectors):
            for name, column in columns_of(collector.name, collector.keep(batch, output), len(ids)).items():
                columns[place, name] = column
        kinds = {key: _kind(column) for key, column in columns.items()}
        stop = self._n_waiting + len(ids)
        if kinds != self._kinds or stop > self._n_room:
            if kinds.keys() != self._kinds.keys():
                self._finished(columns, len(ids))  # to say now, not when it is read, what is wrong with them
            self._make_room(kinds, len(ids))
            stop = len(ids)
        for key, column in columns.items():
            self._blocks[key][self._n_waiting : stop] = column
        self._n_waiting = stop
        if self._joined is not None:
            self._joined.batches.append((i, len(ids)))

    def _finished(self, kept: Mapping[_Key, Any], n_rows: int) -> tuple[dict[str, Any], dict[str, MetricsCollector]]:
        """Return the columns of some rows by name, and which collector each is from."""
        columns = {name: column for (i, name), column in kept.items() if i < 0}
        owners: dict[str, MetricsCollector] = {}
        for i, collector in enumerate(self.collectors):
            mine = {name: column for (owner, name), column in kept.items() if owner == i}
            made = collector.finish(mine)
            for name, column in (mine if made is mine else columns_of(collector.name, made, n_rows)).items():
                if name in columns:
                    other = owners[name].name if name in owners else "`constants`"
                    raise LearnerError(
                        f"column {name!r} must come from one place, got it from {other} and {collector.name}; rename "
                        f"one, by a FunctionalMetricsCollector around it."
                    )
                columns[name], owners[name] = column, collector
        return columns, owners

    def _make_room(self, kinds: dict[_Key, _Kind], n_rows: int) -> None:
        """Write what waits; make other blocks where these rows do not fit in."""
        if self._kinds and (unlike := sorted(name for _, name in kinds.keys() ^ self._kinds.keys())):
            raise LearnerError(f"collectors must give the same columns for every batch, got {unlike} for some alone.")
        self.flush()
        for key, (_, shape, _) in self._kinds.items():
            if kinds[key][1] != shape:
                raise LearnerError(
                    f"column {key[1]!r} must have as many values for each sample of every batch, got rows of shape "
                    f"{kinds[key][1]} after {shape}; pad it, or make one number of it."
                )
        if kinds != self._kinds or n_rows > self._n_room:
            one_row = {key: empty_block(kind, 1) for key, kind in kinds.items()}
            self._n_room = max(n_rows, min(N_WAITING, N_BYTES // sum(row.nbytes for row in one_row.values())))
            self._blocks = {key: empty_block(kind, self._n_room) for key, kind in kinds.items()}
            self._kinds = kinds

    def flush(self) -> None:
        """Write what waits."""
        n_rows, self._n_waiting = self._n_waiting, 0
        if not n_rows:
            return
        found, owners = self._finished({key: block[:n_rows] for key, block in self._blocks.items()}, n_rows)
        columns = {name: _read(column) for name, column in found.items()}
        for collector in self.collectors:
            collector.check({name: columns[name] for name, owner in owners.items() if owner is collector})
        self._writer.add(columns)
        if self._written is not None:
            self._written.append({name: _packed(column) for name, column in columns.items()})
        weights = np.ones(n_rows) if self._weights is None else self._weights[columns["example_id"]].astype(np.float64)
        for name, owner in owners.items():
            column = columns[name]
            if owner.compute_aggregates and owner.averaged(name) and column.ndim == 1 and column.dtype.kind in "biuf":
                total, weight = self._sums.get(name, (0.0, 0.0))
                with np.errstate(invalid="ignore"):  # inf - inf, or 0 * inf: a mean that is NaN
                    total += float(column.astype(np.float64) @ weights)
                self._sums[name] = total, weight + float(weights.sum())

    def rows(self) -> dict[str, Any] | None:
        """Return all that was collected so far as plain data, for another collection of the pass to go on with.

        None if rows that were written are not kept.
        """
        if self._written is None:
            return None
        if self._joined is not None:  # what waits cannot be joined with that of other processes
            self.flush()
        waiting = [
            [*key, isinstance(block, Tensor), _packed(block[: self._n_waiting])] for key, block in self._blocks.items()
        ]
        return {
            "written": list(self._written),
            "waiting": waiting,
            "n_waiting": self._n_waiting,
            "n_room": self._n_room,
            "sums": dict(self._sums),
            "batches": [] if self._joined is None else [list(batch) for batch in self._joined.batches],
        }

    def go_on(self, rows: Mapping[str, Any]) -> None:
        """Begin with what `rows` gave; what then comes is written, and averaged, as if there had been no break.

        Args:
            rows: of a collection by the same collectors.
        """
        for chunk in rows["written"]:
            self._writer.add({name: _unpacked(column) for name, column in chunk.items()})
        if self._joined is not None:
            self._joined.batches += [(i, n) for i, n in rows["batches"]]
        if self._written is not None:
            self._written += rows["written"]
        self._sums = dict(rows["sums"])
        self._n_waiting, self._n_room = rows["n_waiting"], rows["n_room"]
        for i, name, is_elsewhere, packed in rows["waiting"]:
            waiting: Any = packed if is_elsewhere else _unpacked(packed)
            self._kinds[i, name] = _kind(waiting)
            self._blocks[i, name] = empty_block(self._kinds[i, name], self._n_room)
            self._blocks[i, name][: self._n_waiting] = waiting

    def finish(self) -> None:
        """Write what waits, and what other processes have collected in this pass."""
        self.flush()
        if self._joined is not None:
            self._sums = self._joined.finish(self._sums)

    def means(self) -> dict[str, float]:
        """Return the mean of each column with a number per sample, of all that was written."""
        return {name: total / weight if weight else float("nan") for name, (total, weight) in self._sums.items()}


def _kind(column: Any) -> _Kind:
    if isinstance(column, Tensor):
        return column.dtype, tuple(column.shape[1:]), column.device
    if isinstance(column, np.ndarray):
        return object if column.dtype.kind == "U" else column.dtype.newbyteorder("="), column.shape[1:], None
    return object if isinstance(column, str) else type(column), (), None  # one value for all rows


def empty_block(kind: _Kind, n_rows: int) -> np.ndarray | Tensor:
    """Return memory for so many rows of a column: a tensor on the column's device, or an array."""
    dtype, shape, device = kind
    if device is not None:
        return torch.empty(n_rows, *shape, dtype=dtype, device=device)
    return np.empty((n_rows, *shape), dtype)


def _read(rows: np.ndarray | Tensor) -> np.ndarray:
    return rows.cpu().numpy() if isinstance(rows, Tensor) else rows


def _packed(column: np.ndarray | Tensor) -> Any:
    """Return a copy of rows as plain data: a tensor, or of text its bytes and where each one ends."""
    if isinstance(column, Tensor):
        return column.clone()
    if column.dtype != object:
        return torch.from_numpy(np.array(column, column.dtype.newbyteorder("="), order="C"))
    # Not a list: a checkpoint holds little that is no tensor.
    texts = [text.encode(errors="surrogatepass") for text in column]  # names of files may be no text
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"bytes": torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy()), "ends": torch.from_numpy(ends)}


def _unpacked(packed: Any) -> np.ndarray:
    """Return what was packed."""
    if isinstance(packed, Tensor):
        return packed.numpy()
    data, ends = packed["bytes"].numpy().tobytes(), packed["ends"].tolist()
    return np.array([data[start:end].decode(errors="surrogatepass") for start, end in pairwise([0, *ends])], object)


def joined_rows(every: list[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return what `Collection.rows` would give in one process, of what it gives in each of several."""
    found = [rows for rows in every if rows is not None]
    if not found:
        return None
    chunks = [[{name: _unpacked(c) for name, c in chunk.items()} for chunk in rows["written"]] for rows in found]
    columns = in_order([(rows["batches"], each) for rows, each in zip(found, chunks, strict=True)])
    written = [{name: _packed(column) for name, column in columns.items()}] if columns else []
    rows_of = Counter(i for rows in found for i, n in rows["batches"] for _ in range(n))
    batches = sorted(map(list, rows_of.items()))
    return {**no_rows(), "written": written, "sums": added_up([rows["sums"] for rows in found]), "batches": batches}


def no_rows() -> dict[str, Any]:
    """Return what `Collection.rows` gives where nothing was collected yet."""
    return {"written": [], "waiting": [], "n_waiting": 0, "n_room": 0, "sums": {}, "batches": []}


def checked_collectors(collectors: Any) -> list[MetricsCollector]:
    """Return collectors as a list; plain functions become collectors.

    Args:
        collectors: one or several, collectors or functions `(batch, predictor_output) -> dict`.

    Raises:
        TypeError: if one is neither.
        ValueError: if there is none, or one twice.

    Example:
        >>> def size(batch, output): return {"size": output.forward.norm(dim=1)}
        >>> checked_collectors(size)[0].name
        'size'
    """
    if isinstance(collectors, MetricsCollector) or callable(collectors):
        collectors = [collectors]
    if isinstance(collectors, str) or not isinstance(collectors, Iterable):
        raise TypeError(f"`metrics_collectors` must be collectors or functions, got {collectors!r}.")
    given, made = list(collectors), []
    for collector in given:
        if isinstance(collector, type) or not (isinstance(collector, MetricsCollector) or callable(collector)):
            hint = f"; pass {collector.__name__}(...)" if isinstance(collector, type) else ""
            raise TypeError(f"`metrics_collectors` must be collectors or functions, got {collector!r}{hint}.")
        made.append(collector if isinstance(collector, MetricsCollector) else FunctionalMetricsCollector(collector))
    if not made:
        raise ValueError("`metrics_collectors` must hold a collector, got none.")
    if len({id(collector) for collector in given}) < len(given):
        raise ValueError("`metrics_collectors` must be different collectors, got one twice.")
    return made


def schemas_of(collectors: Iterable[MetricsCollector]) -> dict[str, CategoricalLabel]:
    """Return the class names of all columns of collectors."""
    schemas: dict[str, CategoricalLabel] = {}
    for collector in collectors:
        schemas.update(collector.column_schemas)
    return schemas


def classes_of(collectors: Iterable[MetricsCollector]) -> tuple[str, ...] | None:
    """Return the names of the classes by id, where a collector has them."""
    label = schemas_of(collectors).get("label")
    return None if label is None else label.classes


def layers_of(collectors: Iterable[MetricsCollector]) -> tuple[int | str, ...]:
    """Return the layers that collectors need, each once."""
    return tuple(dict.fromkeys(layer for collector in collectors for layer in collector.layers))


def log_means(log: Callable[[dict[str, float]], Any], means: Mapping[str, float], keys: Mapping[str, Any]) -> None:
    """Log means as scalars, named `split/column` where there is a split, over the epoch where there is one."""
    prefix = f"{keys['split']}/" if keys.get("split") else ""
    axis = {"epoch": keys["epoch"]} if "epoch" in keys else {}
    if means:
        log({**axis, **{f"{prefix}{name}": value for name, value in means.items()}})
