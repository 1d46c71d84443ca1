"""Keep on record what a training says of every sample, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from callbacks.keep.best import BestModelCallback
from callbacks.samples.collection import (
    Collection,
    checked_collectors,
    classes_of,
    joined_rows,
    layers_of,
    no_rows,
    schemas_of,
)
from callbacks.samples.in_order import in_order
from callbacks.samples.recording import Recording
from callbacks.samples.sample_files import SampleFiles
from learner import Callback, CancelFitException, Learner, LearnerError
from learner.data.loaders import role_of
from learner.interrogate.layers import places_by_name
from learner.records import Run, Samples, Table
from learner.records.moments import Moments


class CollectCallback(Callback):
    """Collect metrics of every sample while a model trains: which were wrong, and when.

    With `source="step"` from what the pass of the fit has just computed: no forward more, training samples as they were
    augmented, weights as they were at each batch. `epoch` then is the number of the history's row, from 0. Samples are
    known by the numbers that the loader's sampler hands out; where it cannot tell, by a field `example_id` in a batch.

    With `source="pass"` by a pass of its own over the samples that the loader visits, in order, in eval mode, of a
    `Table` the samples for collection. `epoch` then is the number of epochs that were done: 0 is before training.

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
        classes: names of the classes by id, where a collector has them; `Learner.infer` takes them from here.

    Reads:
        `batch output yb batch_size i training n_steps epoch n_epochs dl dl_name is_side_pass is_mixed dls model cbs
        history metrics in_sandbox is_resumed resume ended_by`.

    Raises:
        TypeError, ValueError: if an argument is wrong; before training, if `on` or `at` never happen in this fit, there
            is no layer that a collector needs, "best" has no `BestModelCallback`, "pass" no numbered samples, or the
            run holds samples of another training by this name.
        LearnerError: at the first batch, if nobody can tell which samples it holds, or if `learn.is_mixed`: mixtures,
            as of `MixUp`, are not samples of the dataset, and what a model says of one is true of neither part.

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
    is_observer = True

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
        self.collectors = checked_collectors(collectors)
        self.classes, self.source, self.on = classes_of(self.collectors), source, tuple(on)
        self.name, self._moments = name or source, Moments(at, may_pass=source == "pass")
        self._files = SampleFiles(self.name, run)
        self._recording: Recording | None = None
        self._rows: Mapping[str, Any] | None = None  # of the pass that is about to go on
        self._holding = ExitStack()  # of the run, during a fit
        self._is_on = self._is_over = False
        self._start = self._n_done = 0

    @property
    def run(self) -> Run | None:
        """Where it records; None for a temporary folder."""
        return self._files.run

    @property
    def samples(self) -> Samples:
        """What was collected so far."""
        return self._files.samples

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
        self._check_moments(learn)
        if self._moments.best and _best_of(learn) is None:
            raise ValueError("`at='best'` must have a BestModelCallback, which knows the best epoch; add one.")
        if self.source == "pass":
            for name in wanted:
                in_order(name, learn.dls[name])
        self._is_over = False
        with ExitStack() as stack:  # gives the run back if it is refused
            if self.run is not None:
                stack.enter_context(self.run.hold())
            if learn.is_resumed:
                self._files.find_tables(learn.dls[name] for name in wanted)
            elif self._start == 0:
                self._files.begin_anew(may_replace=bool(learn.resume))  # killed before its first checkpoint
            self._files.find()
            self._holding = stack.pop_all()

    def _check_moments(self, learn: Learner) -> None:
        """Refuse moments that never come, where it is known how long the fit is."""
        if learn.n_epochs is not None:
            self._moments.check(range(self._start, self._start + learn.n_epochs + (self.source == "pass")))

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
            self._recording = self._begin(learn, learn.dl_name, learn.dl, self._files.table(learn.dl), now, rows)
        self._n_done = now + 1

    def after_predict(self, learn: Learner) -> None:
        """Take what layers gave; refuse a batch of mixtures, before a step is made."""
        if self._recording and not learn.is_side_pass:
            if learn.is_mixed:
                raise LearnerError(
                    f"samples must be those of the dataset to be recorded, got mixtures of two in loader "
                    f"{learn.dl_name!r}; collect them as they are by `source='pass'`, or leave that loader out of `on`."
                )
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
        try:
            if isinstance(learn.ended_by, CancelFitException):
                self._last_passes(learn)
        finally:
            self._is_on = False
            self._holding.close()

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
                    recording = self._begin(learn, name, loader, self._files.table(dl), epoch)
                    try:
                        learn.side_pass(name, loader, "infer", recording)
                    except BaseException:
                        self._close(recording)
                        raise
                    self._end(learn, recording)
        finally:
            learn.metrics.clear()  # in place: the loop goes on with this dict
            learn.metrics.update(metrics)

    def _begin(
        self,
        learn: Learner,
        name: str,
        loader: Any,
        table: Table | None,
        epoch: int,
        rows: Mapping[str, Any] | None = None,
    ) -> Recording:
        writer = self._files.writer(f"{name}-{epoch:04d}", table, schemas_of(self.collectors))
        weights = table.weights if table is not None and self.source == "pass" else None
        is_kept = self.source == "step" and any(hasattr(cb, "find_checkpoint") for cb in learn.cbs)
        collection = Collection(self.collectors, writer, weights, keeps_rows=is_kept, job=learn.job)
        keys: dict[str, int | str] = {"epoch": epoch, "split": name}
        try:
            if rows is not None:
                collection.go_on(rows)
            return Recording(learn.model, loader, collection, writer, keys, learn.i if rows is not None else 0)
        except BaseException:
            writer.discard()
            raise

    def _end(self, learn: Learner, recording: Recording) -> None:
        run, is_again = self._files.run, self._files.has(recording.writer.name)
        means = self._close(recording)
        if run is not None:
            split = str(recording.keys["split"])
            if self.source == "step":  # what the history has of this pass is logged already
                means = {name: value for name, value in means.items() if name not in learn.metrics.get(split, means)}
            label = split if self.source == "step" else f"{self.name}/{split}"
            self._files.log(run, means, {**recording.keys, "split": label}, is_again=is_again)

    def _close(self, recording: Recording) -> dict[str, float]:
        """Finish the file; return the means."""
        try:
            return recording.close()
        finally:
            self._files.add(recording.writer.paths[:1])

    # -- going on --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded, by the names of the files, and all rows of a pass that is not done."""
        return {
            "source": self.source,
            "collectors": [collector.name for collector in self.collectors],
            "n_done": self._n_done,
            "is_over": self._is_over,
            "parts": self._files.names,
            "rows": None if self._recording is None else self._recording.collection.rows(),
        }

    def differences(self, state: Mapping[str, Any]) -> Iterator[str]:
        """Give what would not go on with the rows of a pass that is not done."""
        here = {"source": self.source, "collectors": [collector.name for collector in self.collectors]}
        for what, mine in here.items():
            if state["rows"] is not None and mine != state[what]:
                yield f"`{what}` is {mine} here, {state[what]} saved"

    def join_states(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what one process would have recorded, of what each of several has, as `state_dict` gives it."""
        return {**states[0], "rows": joined_rows([state["rows"] for state in states])}

    def empty_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a process that has recorded nothing in this pass."""
        return {**state, "rows": None if state["rows"] is None else no_rows()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; find the files again, in the run."""
        self._n_done, self._is_over = state["n_done"], state["is_over"]
        self._rows = state["rows"] if self._recording is None else None
        self._files.expect(state["parts"])
        if self._is_on:  # else there may be a run when a fit begins
            self._files.find()
            self._files.tell_of_gone()


def _best_of(learn: Learner) -> BestModelCallback | None:
    return next((cb for cb in learn.cbs if isinstance(cb, BestModelCallback)), None)
