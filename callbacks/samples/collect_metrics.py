"""Collect metrics of every sample of a table, in one pass of a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from callbacks.samples.collection import Collection, checked_collectors, layers_of, log_means, schemas_of
from callbacks.samples.recording import Folder
from callbacks.show.progress_terminal import Bar
from learner import Predictor, PredictorOutput
from learner.data.moving import to_device
from learner.data.wrapper import length_of
from learner.loop.state import pass_mode
from learner.records import Run, Samples, Table
from learner.records.files import file_name
from learner.records.ids import SampleIds
from learner.records.writer import KEYS, SampleWriter


def collect_metrics(
    table: Any,
    metrics_collectors: Any,
    predictor: nn.Module | Predictor | None,
    *,
    constants: Mapping[str, int | float | str] | None = None,
    split: str = "",
    dataloader_args: Mapping[str, Any] | None = None,
    collect_aggregates: bool = True,
    exclude_zero_weights: bool = False,
    run: Run | None = None,
) -> Samples:
    """Run a model over a table once, and collect metrics of every sample.

    Without gradients, in eval mode; modes, random generators and the table are left as they were. Batches and labels
    are on the model's device. Collectors get the layers that they need. Memory stays flat however large the table is.

    Args:
        table: a `Table`, of which the samples are those for collection (`map_collect_metrics`), or any dataset with
            length and items.
        metrics_collectors: one or several, collectors or functions `(batch, predictor_output) -> dict of columns`.
        predictor: a model, a `Predictor` that knows what of a batch goes into it, or None: metrics of data alone.
        constants: columns with one value for all rows.
        split: a name for these samples, a column as well.
        dataloader_args: arguments for the `DataLoader`, `batch_size` (64) and the like.
        collect_aggregates: whether means of the columns are logged to the run. They are exact, over samples and not
            batches, and weighted where the table has weights.
        exclude_zero_weights: whether to leave out samples of weight 0.
        run: where to record; the active run if None, and a temporary folder if there is none.

    Returns:
        `Samples`, lazy over the files; `.aggregates` has the means.

    Raises:
        TypeError, ValueError: before the pass, if an argument is of the wrong kind.
        LearnerError: in the pass, if a collector gives something that is no column.

    Example:
        >>> import torch
        >>> from callbacks import ClassificationMetricsCollector
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
        >>> data = torch.utils.data.TensorDataset(x, y)
        >>> samples = collect_metrics(data, ClassificationMetricsCollector(), nn.Identity(), split="valid")
        >>> samples.numpy("predicted").tolist(), round(samples.aggregates["accuracy"], 3)
        ([0, 1, 2], 0.667)
    """
    collectors = checked_collectors(metrics_collectors)
    constants = _checked_constants(constants, split)
    table = _checked_table(table, exclude_zero_weights)
    if not isinstance(run, Run | None):
        raise TypeError(f"`run` must be a Run, got {run!r}; do `Run.create(path)`.")
    dataset, weights = table.collect_view(), table.weights
    kept = np.flatnonzero(weights) if exclude_zero_weights and weights is not None else None
    loader = _loader(dataset if kept is None else Subset(dataset, kept.tolist()), dataloader_args)
    ids = SampleIds(loader)
    if predictor is not None:
        predictor = predictor if isinstance(predictor, Predictor) else Predictor(predictor)
        predictor = predictor.with_layers(layers_of(collectors))
    home = run or Run.active() or Folder()
    with home.hold() if isinstance(home, Run) else nullcontext():
        if isinstance(home, Run):
            home.register_table(table)
        with SampleWriter(
            home.path,
            _free_name(split or "samples", home.path),
            schemas=schemas_of(collectors),
            fingerprint=table.fingerprint,
            table_name=table.name,
        ) as writer:
            collection = Collection(collectors, writer, weights)
            _run(predictor, loader, ids, kept, collection, constants)
        means = collection.means()
        if isinstance(home, Run) and collect_aggregates:
            log_means(home.log, means, constants)
    return Samples(writer.paths[:1], table=table, aggregates=means, holder=home)


def _run(
    predictor: Predictor | None,
    loader: Any,
    ids: SampleIds,
    kept: np.ndarray | None,
    collection: Collection,
    constants: Mapping[str, Any],
) -> None:
    model = predictor.model if predictor else nn.Module()
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    hooks = predictor.with_hooks() if predictor else nullcontext()
    bar = Bar(total=length_of(loader), desc=str(constants.get("split") or "collect"), leave=False, disable=None)
    with bar, ids, pass_mode(model, loader, training=False), hooks:
        for i, batch in enumerate(loader):
            batch = batch if device is None else to_device(batch, device)
            output = predictor(batch) if predictor else PredictorOutput(None, {})
            drawn = ids.of_batch(i)
            collection.add(batch, output, drawn if kept is None else kept[drawn], **constants)
            bar.update()
        collection.flush()


def _loader(dataset: Any, given: Mapping[str, Any] | None) -> DataLoader[Any]:
    """Return a loader, of 64 samples a batch if nothing else is given."""
    args = dict(given or {})
    if args.get("num_workers") and not args.get("in_order", True):
        raise ValueError("`dataloader_args` must leave batches in order, got in_order=False; leave it out.")
    return DataLoader(dataset, **(args if "batch_sampler" in args else {"batch_size": 64, **args}))


def _checked_table(table: Any, exclude_zero_weights: bool) -> Table:
    """Return the samples to collect from as a table."""
    if isinstance(table, IterableDataset) or not (hasattr(table, "__len__") and hasattr(table, "__getitem__")):
        hint = "pass its `.dataset`" if isinstance(table, DataLoader) else "samples of a stream have no numbers"
        raise TypeError(
            f"`table` must be a Table or a dataset with length and items, got {type(table).__name__}; {hint}."
        )
    made: Table = table if isinstance(table, Table) else Table(table)
    if exclude_zero_weights and made.weights is None:
        raise ValueError("`exclude_zero_weights` must have a Table with a column `weight`, got none; leave it out.")
    return made


def _checked_constants(constants: Mapping[str, Any] | None, split: str) -> dict[str, Any]:
    if not isinstance(split, str):
        raise TypeError(f"`split` must be a name, got {split!r}.")
    made = {name: value.item() if isinstance(value, np.generic) else value for name, value in (constants or {}).items()}
    for name, value in made.items():
        if not isinstance(name, str) or name in ("example_id", "split"):
            raise ValueError(f"`constants` must have names of their own, got {name!r}; the split has its argument.")
        if not isinstance(value, int if name in KEYS else int | float | str):
            wanted = "a whole number" if name in KEYS else "numbers or strings"
            raise TypeError(f"`constants` must be {wanted}, got {value!r} for {name!r}.")
    return {**{key: made.pop(key) for key in KEYS if key in made}, "split": split, **made}


def _free_name(prefix: str, folder: Path) -> str:
    prefix = file_name(prefix)
    taken = {path.stem for path in (folder / "samples").glob(f"{prefix}-*.parquet")}
    return next(name for n in range(len(taken) + 1) if (name := f"{prefix}-{n:04d}") not in taken)
