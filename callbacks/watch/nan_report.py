"""Find the cause of a loss that is not finite, and save what is needed to reproduce it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.watch.batch_file import batch_state, load_batch_state, weights_of, write
from callbacks.watch.nan import TerminateOnNaNCallback
from callbacks.watch.nan_cause import FirstBad, NaNReport, TensorStats, has_nan, is_finite, listed, stats_of
from callbacks.watch.rewind import Rewind
from learner import Callback, CancelFitException, Learner
from learner.data.generators import preserved_rng
from learner.interrogate.hooks import Tap, can_be_hooked, uncompiled
from learner.interrogate.layers import named_layers

_STATS = ("inputs", "outputs", "batch")  # the fields of a report that hold `TensorStats`


class NaNReportCallback(Callback):
    """Find the module that made a loss NaN or infinite, before the optimizer makes a step of it; then end the fit.

    The batch runs a second time, from the state before it and with hooks on all modules. A `RuntimeWarning` names the
    first module whose output is not finite, and describes its inputs; `report` has the rest. Then the fit ends, with
    the weights and buffers from before the batch. Validation is watched as well, and so is a `learn.validate()` outside
    of a fit, which ends too. There is no need for a `TerminateOnNaNCallback` beside this callback.

    The file holds the batch, the weights, the states of the random generators and the train/eval modes, as plain
    tensors and numbers: `torch.load(path, weights_only=True)` reads it, and `repeat` runs the batch again, in another
    process or on another machine.

    The cost for each batch is a copy of the buffers and of the states of torch's random generators; on CUDA the host
    also waits for the loss, after the backward pass is queued. A model that draws random numbers from Python or NumPy,
    or changes its input in place, may give another result the second time.

    Args:
        path: the file to write, which replaces an older one; None for no file. Nothing is written in a sandbox.

    Attributes:
        report: the `NaNReport` of the last fit, or None.

    Reads: model, loss_f, loss, batch, xb, yb, batch_size, epoch, dl_name, i, role, in_sandbox.

    Raises:
        OSError: if the file cannot be written; the report is in its notes.

    Example:
        >>> from learner import Loaders
        >>> class Log(nn.Module):
        ...     def forward(self, x): return x.log()
        >>> dls = Loaders.from_arrays(train=([[2.0], [1.0], [-1.0]], [[0.0]] * 3), batch_size=3)
        >>> watch = NaNReportCallback(path=None)
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     Learner(nn.Sequential(Log(), nn.Linear(1, 1)), dls, nn.functional.mse_loss, cbs=watch).fit(5)
        >>> watch.report.module, watch.report.kind, watch.report.i
        ('0', 'Log', 0)
        >>> print(watch.report.cause)
        The first output that is not finite is that of `0` (Log), whose inputs are finite.
    """

    order = 50
    before = (TerminateOnNaNCallback,)  # else it would end the fit first

    def __init__(self, path: str | os.PathLike[str] | None = "nan_report.pt") -> None:
        self.path = None if path is None else Path(path).expanduser().absolute()  # wherever the program goes next
        self.report: NaNReport | None = None
        self._passes: list[Rewind] = []  # a pass, and those inside it

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        self.report = None

    def before_epoch(self, learn: Learner) -> None:
        """Prepare to store the state before each batch."""
        self._passes.append(Rewind(learn.model))

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Store the state before the first run of a batch, and restore it before the second."""
        if self._passes:
            before = self._passes[-1]  # here and not in `before_batch`: both runs come by, inside what others wrap
            if before.is_second_run:
                before.restore(learn)
            else:
                before.keep(learn)
        action()

    def after_loss(self, learn: Learner) -> None:
        """Check the loss; on a device, only start to copy it, since waiting would stall the device."""
        if learn.loss.is_cpu:
            if not math.isfinite(learn.loss.item()):
                self._report(learn, learn.loss.item())
        elif self._passes:
            self._passes[-1].loss = _copied_value(learn.loss)

    def around_backward(self, learn: Learner, action: Callable[[], None]) -> None:
        """Check the loss while the device is busy with the backward pass, before the optimizer step."""
        action()
        self._check_copied(learn)

    def after_batch(self, learn: Learner) -> None:
        """Check the loss of a pass that does not train."""
        self._check_copied(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Drop the state of the last batch."""
        self._passes.pop()

    def state_dict(self) -> dict[str, Any]:
        """Return the report if there is one; nothing else outlives a batch."""
        if self.report is None:
            return {}
        return self.report._asdict() | {name: [list(stats) for stats in getattr(self.report, name)] for name in _STATS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        stats = {name: tuple(TensorStats(*values) for values in state[name]) for name in _STATS if state}
        self.report = NaNReport(**state | stats) if state else None

    def _check_copied(self, learn: Learner) -> None:
        if self._passes and (loss := self._passes[-1].loss):
            self._passes[-1].loss = None
            if not math.isfinite(value := loss()):
                self._report(learn, value)

    def _report(self, learn: Learner, loss: float) -> None:
        """Warn with the cause of a bad loss, write the file, and end the fit."""
        if not self._passes:  # added in the middle of a pass: the state before the batch is not known
            return
        path = None if self.path is None or learn.in_sandbox else self.path
        try:
            report = self._explain(learn, loss, path)
        except Exception as error:  # whatever it is, the bad loss must be reported with it
            error.add_note(
                f"raised while looking for the cause of a loss of {loss} in epoch {learn.epoch}, loader "
                f"{learn.dl_name!r}, batch {learn.i}"
            )
            raise
        inputs = f" Inputs: {'; '.join(map(str, report.inputs))}." if report.inputs else ""
        again = f" NaNReportCallback.repeat({str(path)!r}, learn) runs the batch again." if path else ""
        warnings.warn(
            f"{report.where}; the fit ends here. {report.cause}{inputs} See `report` for more.{again}",
            RuntimeWarning,
            stacklevel=2,
        )
        raise CancelFitException

    def _explain(self, learn: Learner, loss: float, path: Path | None) -> NaNReport:
        """Run the batch again, keep the report and write the file."""
        before = self._passes[-1]
        before.restore_buffers()
        saved = None if path is None else batch_state(learn, before.xb, before.rng_by_device())
        self.report = report = _run_again(learn, before, loss, path)
        if path is not None:
            try:
                write(path, {**(saved or {}), "loss": loss, "report": str(report)})
            except OSError as error:
                error.add_note(str(report))
                raise
        return report

    @staticmethod
    def repeat(path: str | os.PathLike[str], learn: Learner) -> NaNReport:
        """Run the batch of a file again, in a sandbox, and return its report.

        On the same kind of device, all values are the same to the bit.

        Args:
            path: the file.
            learn: a learner with the same model, loss function and callbacks; its weights and loaders do not matter.

        Raises:
            ValueError: if this class did not write the file, the model is another one, or part of the batch could not
                be saved.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or "rng" not in saved:
            raise ValueError(f"`path` must be a file that NaNReportCallback has written, got {os.fspath(path)!r}.")
        if saved["lost"]:
            raise ValueError(
                f"`path` must hold the whole batch to run it again, got only descriptions of {listed(saved['lost'])}, "
                f"which could not be saved."
            )
        again = NaNReportCallback(path=None)
        with learn.sandbox(), learn.added(again), torch.set_grad_enabled(saved["role"] == "train"):
            load_batch_state(learn, saved)
            before = Rewind(learn.model)
            before.keep(learn)
            before.rng = [saved["rng"].get(name, state) for name, state in before.rng_by_device().items()]
            again._passes.append(before)
            return _run_again(learn, before, saved["loss"], Path(path).expanduser().absolute())


def _copied_value(loss: Tensor) -> Callable[[], float]:
    """Start to copy a loss to the host; return a function that waits for the copy alone, and returns the value."""
    if not loss.is_cuda:
        return loss.detach().item
    host = loss.detach().to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(loss.device))

    def value() -> float:
        arrived.synchronize()
        return host.item()

    return value


def _run_again(learn: Learner, before: Rewind, loss: float, path: Path | None) -> NaNReport:
    """Run a batch again from the state before it, with hooks; then restore the buffers and the random generators."""
    layers = named_layers(learn.model)
    if isinstance(learn.loss_f, nn.Module):
        layers |= {f"loss_f.{name}".rstrip("."): module for name, module in named_layers(learn.loss_f).items()}
    batch, weights = (*stats_of("xb", before.xb), *stats_of("yb", learn.yb)), _bad_weights(learn.model)
    learn.loss = learn.output = learn.preds = None  # frees the memory of the first graph
    watch = FirstBad()
    before.is_second_run = True  # and stays so: no batch follows in this pass
    with ExitStack() as stack:
        stack.callback(before.restore_buffers)
        stack.enter_context(preserved_rng())
        stack.enter_context(uncompiled())
        for name, module in layers.items():
            if not can_be_hooked(module):  # the module that contains it is hooked
                continue
            leave = partial(watch.leave, name, type(module).__name__)
            stack.callback(Tap(module, watch.enter, leave).remove)
        learn.predict()
        learn.get_loss()
    if watch.first is None:  # or the loss function is not a module, so no hook has seen it
        watch.enter((learn.preds, learn.yb), {})
        watch.leave("loss_f", getattr(learn.loss_f, "__name__", type(learn.loss_f).__name__), learn.loss)
    first = watch.first or (None, None, (), ())
    return NaNReport(
        epoch=learn.epoch,
        dl_name=learn.dl_name,
        i=learn.i,
        loss=math.nan if math.isnan(loss) else loss,  # always the same object, so that equal reports compare equal
        module=first[0],
        kind=first[1],
        inputs=first[2],
        outputs=first[3],
        batch=batch,
        weights=weights,
        path=None if path is None else str(path),
    )


def _bad_weights(model: nn.Module) -> tuple[str, ...]:
    """Return the names of parameters that hold NaN or inf and of buffers that hold NaN; a mask may rightly hold inf."""
    buffers = {id(buffer) for buffer in model.buffers()}
    weights = weights_of(model).items()
    return tuple(name for name, w in weights if (has_nan(w) if id(w) in buffers else not is_finite(w)))
