"""Keep on record what a training says of every sample, epoch after epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset

from callbacks.best import BestModelCallback
from callbacks.collection import Collection, checked_collectors, layers_of, log_means, schemas_of
from callbacks.recording import Folder, Recording, in_order
from learner import Callback, CancelFitException, Learner
from learner.layers import places_by_name
from learner.loaders import role_of
from learner.records import Run, Samples, Table
from learner.records.moments import Moments
from learner.records.writer import SampleWriter, file_name


class CollectCallback(Callback):
    """Collect metrics of every sample while a model trains: which were wrong, and when.

    With `source="step"` from what the pass of the fit has just computed: no forward more, training samples as they were
    augmented, weights as they were at each batch. `epoch` then is the number of the history's row, from 0. Samples are
    known by the numbers that the loader's sampler hands out; where it cannot tell, by a field `example_id` in a batch.

    With `source="pass"` by a pass of its own over the dataset, in order, in eval mode, of a `Table` the samples for
    collection. `epoch` then is the number of epochs that were done: 0 is before training.

    Rows go to the active run, or to a temporary folder that lives as long as `samples`; a file per epoch and loader,
    `step-train-0003`, there when the pass ends, also if it was cut short. Means of what the history does not have are
    logged to the run. An epoch that is collected again replaces its file. `step` is
    the number of optimizer steps that the learner had made when it predicted; of training batches alone.

    A fit that goes on from a checkpoint gives the rows, and the means, of one that was not stopped, if it writes to the
    same run, opened again: what was recorded after the checkpoint is replaced. For that, with "step" and a
    `CheckpointCallback`, all rows of the pass that runs are held in memory and are part of a checkpoint in the middle
    of it. A million samples with ten numbers each make it 40 to 80 MB larger; vectors, as of embeddings, many times
    that, so collect them with "pass", or `at` few epochs. What a collector of your own remembers is not in it.

    Args:
        collectors: one or several, collectors or functions `(batch, predictor_output) -> dict of columns`.
        source: "step" or "pass".
        on: names of loaders, or roles: `train` is all loaders named so.
        at: which epochs, by their number as above; numbers, slices (`slice(5, None, 5)` is every fifth from the fifth)
            or a list of both; all if None. With "pass" also "before", "end" (however the fit ends, but for an error)
            and "best" (the weights that a `BestModelCallback` kept).
        name: what the names of the files begin with, to have two of these callbacks in one run; the source if empty.
        run: where to record; the active run if None.

    Attributes:
        samples: what was collected, as `Samples`.

    Reads:
        `batch output yb batch_size i training n_steps epoch n_epochs dl dl_name is_side_pass dls model cbs history
        metrics in_sandbox is_resumed resume ended_by`.

    Raises:
        TypeError, ValueError: if an argument is wrong; before training, if `on` or `at` never happen in this fit, there
            is no layer that a collector needs, "best" has no `BestModelCallback`, "pass" no numbered samples, or the
            run holds samples of another training by this name.
        LearnerError: at the first batch, if nobody can tell which samples it holds.

    Example:
        >>> import torch
        >>> from callbacks import ClassificationMetricsCollector
        >>> from learner import Loaders
        >>> x, y = torch.randn(20, 3), torch.randint(0, 3, (20,))
        >>> dls = Loaders.from_arrays(train=(x, y), batch_size=8)
        >>> collect = CollectCallback(ClassificationMetricsCollector())
        >>> Learner(torch.nn.Linear(3, 3), dls, torch.nn.functional.cross_entropy, cbs=collect).fit(2)
        >>> len(collect.samples), collect.samples.pivot("loss").values.shape
        (40, (20, 2))
    """

    # Late, so that others have replaced the loader or loaded a history before; and since clean-ups run in reverse, the
    # last passes come before a BestModelCallback puts its weights back.
    order = 60

    def __init__(
        self,
        collectors: Any,
        source: Literal["step", "pass"] = "step",
        on: Sequence[str] = ("train", "valid"),
        at: Any = None,
        *,
        name: str = "",
        run: Run | None = None,
    ) -> None:
        if source not in ("step", "pass"):
            raise ValueError(f"`source` must be 'step' or 'pass', got {source!r}.")
        if not isinstance(on, list | tuple) or not on or not all(isinstance(loader, str) for loader in on):
            raise TypeError(f"`on` must be a list of names or roles of loaders, got {on!r}; as ('train',).")
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string, got {name!r}.")
        if not isinstance(run, Run | None):
            raise TypeError(f"`run` must be a Run, got {run!r}; do `Run.create(path)`.")
        self.collectors = checked_collectors(collectors)
        self.source, self.on, self.name, self.run = source, tuple(on), name or source, run
        self._moments = Moments(at, may_pass=source == "pass")
        self._parts: dict[str, Path | None] = {}  # None for one that was recorded, and is gone
        self._tables: dict[int, Table] = {}
        self._folder: Folder | None = None
        self._recording: Recording | None = None
        self._rows: Mapping[str, Any] | None = None  # of the pass that is about to go on
        self._is_on = self._is_over = self._was_told = False
        self._start = self._n_done = 0

    @property
    def samples(self) -> Samples:
        """What was collected so far."""
        parts = [path for path in self._parts.values() if path is not None]
        return Samples(parts, table=list(self._tables.values()), holder=self._folder)

    # -- when ------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Refuse what would never happen; forget the samples of another learner."""
        self._is_on = not learn.in_sandbox
        if not self._is_on:
            return
        if any(isinstance(cb, CollectCallback) and cb is not self and cb.name == self.name for cb in learn.cbs):
            raise ValueError(f"`name` must be another for each CollectCallback of a learner, got {self.name!r} twice.")
        wanted = [name for name in learn.dls if self._wants(name)]
        if not wanted:
            raise ValueError(f"`on` must name loaders that there are, {list(learn.dls)} or their roles, got {self.on}.")
        places_by_name(learn.model, layers_of(self.collectors))
        self._start = self._n_done = learn.history.state_dict()["start"]
        self._moments.check(range(self._start, self._start + learn.n_epochs + (self.source == "pass")))
        if self._moments.best and _best_of(learn) is None:
            raise ValueError("`at='best'` must have a BestModelCallback, which knows the best epoch; add one.")
        if self.source == "pass":
            for name in wanted:
                in_order(name, learn.dls[name])
        self._is_over = self._was_told = False
        if learn.is_resumed:
            self._find_tables([learn.dls[name] for name in wanted])
        elif self._start == 0:
            self._parts, self._tables, self._folder = {}, {}, None
            if not learn.resume:  # else they are of this training, killed before its first checkpoint
                self._refuse_records_of_another(self.run or Run.active())
        self._find_parts()

    def _refuse_records_of_another(self, run: Run | None) -> None:
        """Let a training from the beginning not take the place of one that is on record."""
        found = [] if run is None else sorted((run.path / "samples").glob(f"{file_name(self.name)}-*.parquet"))
        if found:
            raise ValueError(
                f"`run` must have no samples of another training, got {len(found)} files as {found[0].stem!r}; make a "
                f"new Run, or say `name=`. A learner that goes on, by `resume` or after `load`, may."
            )

    def before_epoch(self, learn: Learner) -> None:
        """Begin to listen to a pass of the fit; before the first one of an epoch, make passes that are due."""
        if not self._is_on or learn.is_side_pass:
            return
        now = self._start + learn.epoch
        rows, self._rows = self._rows if learn.i else None, None
        if self.source == "pass":
            if learn.dl_name == next(iter(learn.dls)) and not learn.i:
                self._pass_if_due(learn, now)
        elif self._wants(learn.dl_name) and self._moments.wants(now) and (rows or not learn.i):
            self._recording = self._begin(learn, learn.dl_name, learn.dl, self._table(learn.dl), now, rows)
        self._n_done = now + 1

    def after_predict(self, learn: Learner) -> None:
        """Take what layers gave."""
        if self._recording and not learn.is_side_pass:
            self._recording.after_predict(learn)

    def after_batch(self, learn: Learner) -> None:
        """Collect a batch."""
        if self._recording and not learn.is_side_pass:
            self._recording.after_batch(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Finish the file, also of a pass that was cut short: what is in it was so."""
        if self._recording and not learn.is_side_pass:
            recording, self._recording = self._recording, None
            self._end(learn, recording)

    def after_fit(self, learn: Learner) -> None:
        """Make the passes that come at the end."""
        self._last_passes(learn)

    def cleanup_fit(self, learn: Learner) -> None:
        """Make them also if a callback ended the fit."""
        if isinstance(learn.ended_by, CancelFitException):
            self._last_passes(learn)
        self._is_on = False

    def _last_passes(self, learn: Learner) -> None:
        if not self._is_on or self._is_over or self.source == "step":
            return
        self._is_over = True  # once, also if the fit is cancelled after it
        self._pass_if_due(learn, self._n_done, is_last=True)
        if self._moments.best and (best := _best_of(learn)) and best.best is not None:
            with best.in_place(learn):
                self._pass(learn, best.best.epoch + 1)

    def _pass_if_due(self, learn: Learner, n_done: int, is_last: bool = False) -> None:
        if self._moments.wants(n_done, n_done == self._start, is_last):
            self._pass(learn, n_done)

    def _wants(self, name: str) -> bool:
        return name in self.on or role_of(name) in self.on

    # -- how -------------------------------------------------------------------------------------------------------

    def _pass(self, learn: Learner, epoch: int) -> None:
        """Make a pass over each dataset that is wanted."""
        metrics = dict(learn.metrics)
        try:
            for name, dl in list(learn.dls.items()):
                if self._wants(name):
                    loader = in_order(name, dl)
                    recording = self._begin(learn, name, loader, self._table(dl), epoch)
                    try:
                        learn.side_pass(name, loader, "infer", recording)
                    except BaseException:
                        self._close(recording)
                        raise
                    self._end(learn, recording)
        finally:
            learn.metrics = metrics

    def _begin(
        self,
        learn: Learner,
        name: str,
        loader: Any,
        table: Table | None,
        epoch: int,
        rows: Mapping[str, Any] | None = None,
    ) -> Recording:
        home: Run | Folder | None = self.run or Run.active()
        if home is None:
            home = self._folder = self._folder or Folder()
        elif isinstance(home, Run) and table is not None:
            home.register_table(table)
        writer = SampleWriter(
            home.path,
            f"{self.name}-{name}-{epoch:04d}",
            schemas=schemas_of(self.collectors),
            fingerprint=None if table is None else table.fingerprint,
            table_name="" if table is None else table.name,
        )
        weights = table.weights if table is not None and self.source == "pass" else None
        is_kept = self.source == "step" and any(hasattr(cb, "find_checkpoint") for cb in learn.cbs)
        collection = Collection(self.collectors, writer, weights, keeps_rows=is_kept)
        keys: dict[str, int | str] = {"epoch": epoch, "split": name}
        try:
            if rows is not None:
                collection.go_on(rows)
            return Recording(learn.model, loader, collection, writer, keys, learn.i if rows is not None else 0)
        except BaseException:
            writer.discard()
            raise

    def _end(self, learn: Learner, recording: Recording) -> None:
        run, writer = self.run or Run.active(), recording.writer
        is_again = run is not None and (run.path / "samples" / f"{writer.name}.parquet").exists()
        means = self._close(recording)
        if run is not None:
            # As when training goes on from a checkpoint: the same row does not come twice.
            known = {str(row) for row in run.logged()} if is_again else set()
            label = str(recording.keys["split"])
            if self.source == "step":  # what the history has of this pass is logged already
                means = {name: value for name, value in means.items() if name not in learn.metrics.get(label, means)}
            else:
                label = f"{self.name}/{label}"
            log_means(
                lambda row: None if str(row) in known else run.log(row), means, {**recording.keys, "split": label}
            )

    def _close(self, recording: Recording) -> dict[str, float]:
        """Finish the file; return the means."""
        try:
            return recording.close()
        finally:
            self._parts |= {path.stem: path for path in recording.writer.paths[:1]}

    def _table(self, loader: Any) -> Table | None:
        """Return the table that a loader is over, one for each dataset; None if its samples have no numbers."""
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            return None
        if id(dataset) not in self._tables:
            self._tables[id(dataset)] = dataset if isinstance(dataset, Table) else Table(dataset)
        return self._tables[id(dataset)]

    # -- going on --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded, by the names of the files, and all rows of a pass that is not done."""
        return {
            "source": self.source,
            "collectors": [collector.name for collector in self.collectors],
            "n_done": self._n_done,
            "is_over": self._is_over,
            "parts": list(self._parts),
            "rows": None if self._recording is None else self._recording.collection.rows(),
        }

    def differences(self, state: Mapping[str, Any]) -> Iterator[str]:
        """Give what would not go on with the rows of a pass that is not done."""
        here = {"source": self.source, "collectors": [collector.name for collector in self.collectors]}
        for what, mine in here.items():
            if state["rows"] is not None and mine != state[what]:
                yield f"`{what}` is {mine} here, {state[what]} saved"

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; find the files again, in the run."""
        self._n_done, self._is_over = state["n_done"], state["is_over"]
        self._rows = state["rows"] if self._recording is None else None
        self._parts = {name: self._parts.get(name) for name in state["parts"]}
        if not self._is_on:
            return  # there may be a run when a fit begins
        self._find_parts()
        n_gone = sum(path is None for path in self._parts.values())
        if n_gone and not self._was_told:
            self._was_told = True
            run = self.run or Run.active()
            why = "a temporary folder goes with its process; collect into a Run" if run is None else f"not in {run}"
            warnings.warn(
                f"samples of {n_gone} passes before the checkpoint are gone: {why}.", RuntimeWarning, stacklevel=2
            )

    def _find_tables(self, loaders: Sequence[Any]) -> None:
        """Know the tables also of loaders over which no pass comes any more."""
        run = self.run or Run.active()
        for table in map(self._table, loaders):
            if run is not None and table is not None:
                run.register_table(table)

    def _find_parts(self) -> None:
        """Look for the files of what was recorded; by name, for a path from a checkpoint is not to be followed."""
        run = self.run or Run.active()
        there = {} if run is None else {path.stem: path for path in (run.path / "samples").glob("*.parquet")}
        self._parts = {name: there.get(name, path) for name, path in self._parts.items()}


def _best_of(learn: Learner) -> BestModelCallback | None:
    return next((cb for cb in learn.cbs if isinstance(cb, BestModelCallback)), None)
