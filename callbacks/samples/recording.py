"""One pass on record: which samples its batches hold, what layers gave, rows in a file."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.samples.collection import Collection, layers_of
from learner import Learner, LearnerError, PredictorOutput
from learner.data.batch import describe, fields_of
from learner.data.moving import cloned, detached, in_float32
from learner.interrogate.capture import Capture
from learner.interrogate.layers import places_by_name
from learner.records.ids import SampleIds
from learner.records.writer import SampleWriter


class Recording:
    """Write down what collectors make of each batch of one pass; a callback for it, or handed signals by one.

    Args:
        model: of which layers are looked at, those that collectors need.
        loader: what the pass is over.
        collection: takes the batches.
        writer: of the file; that of the collection.
        keys: epoch and split.
        start: the first batch of the pass, where it begins in the middle.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loader: Any,
        collection: Collection,
        writer: SampleWriter,
        keys: Mapping[str, int | str],
        start: int = 0,
    ) -> None:
        self.collection, self.writer, self.keys = collection, writer, dict(keys)
        self._layers = places_by_name(model, layers_of(collection.collectors))
        self._hidden: dict[Any, Any] = {}
        self._n_steps, self._why_no_ids = 0, ""
        self._ids: SampleIds | None = None
        self._capture: Capture | None = None
        with ExitStack() as stack:  # takes one off again if the other cannot be put on
            try:
                self._ids = stack.enter_context(SampleIds(loader, start))
            except ValueError as error:
                self._why_no_ids = str(error)  # batches may still say it themselves
            if self._layers:
                self._capture = stack.enter_context(
                    Capture(model, self._layers, lambda layer, value, inputs: cloned(detached(value)))
                )
            self._stack = stack.pop_all()

    def before_epoch(self, learn: Learner) -> None:
        """Listen to the shares that this process reads, where several make the pass."""
        if learn.job.world > 1 and self._ids is not None:
            self._ids = self._stack.enter_context(SampleIds(learn.dl))

    def after_predict(self, learn: Learner) -> None:
        """Take what layers gave, before another pass comes between; and the steps made, before this batch makes one."""
        self._n_steps = learn.n_steps
        if self._capture is not None:
            self._hidden = {layer: self._capture[layer] for layer in self._layers}

    def after_batch(self, learn: Learner) -> None:
        """Collect a batch."""
        if learn.output is None or not learn.batch_size:
            return  # it was cut short
        ids = self._ids_of(learn.batch, learn.i, learn.batch_size)
        keys = {**self.keys, "step": self._n_steps} if learn.training else self.keys
        output = PredictorOutput(in_float32(detached(learn.output)), self._hidden, {"target": learn.yb})
        with torch.no_grad():
            self.collection.add(learn.batch, output, ids, learn.i, **keys)

    def close(self) -> dict[str, float]:
        """Take everything off and finish the file, also if the pass was cut short; return the means of the columns.

        What fails now was not written; what was written before is kept.
        """
        self._stack.close()
        try:
            self.collection.finish()
        finally:
            self.writer.close()
        return self.collection.means()

    def _ids_of(self, batch: Any, i: int, n: int) -> np.ndarray:
        fields = fields_of(batch)
        if fields is None or "example_id" not in fields:
            if self._ids is None:
                raise LearnerError(self._why_no_ids)
            return self._ids.of_batch(i, n)
        given = fields["example_id"]
        ids = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if ids.shape != (n,) or ids.dtype.kind not in "iu":
            raise LearnerError(f"`example_id` must be a whole number for each of {n} samples, got {describe(given)}.")
        return ids.astype(np.int64)


class Folder:
    """A temporary folder, gone when nobody holds this any more.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        # Not a TemporaryDirectory, which warns when it is not closed by hand.
        self.path = Path(tempfile.mkdtemp(prefix="samples-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
