"""Find out where a loss that is not finite comes from, and keep all that it takes to see it again."""

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

_STATS = ("inputs", "outputs", "batch")  # what of a report is of several tensors


class NaNReportCallback(Callback):
    """Find the module that made a loss NaN or infinite, before the optimizer can spread it; then end the fit.

    Such a batch runs a second time, from the state before it and with hooks on all modules. A `RuntimeWarning` tells
    the first one whose output is not finite and what went into it; `report` has the rest. The fit ends as
    with `TerminateOnNaNCallback`, which is not needed beside this one: weights and buffers are those before the
    batch. Validation counts as well, also a `learn.validate()` outside of a fit, which then ends too.

    The file is the batch, the weights, the random numbers and the modes, in plain tensors and numbers alone:
    `torch.load(path, weights_only=True)` reads it, and `repeat` runs it again, later and elsewhere.

    Until then a batch costs a copy of the buffers and of the state of torch's random generators; on cuda the host
    waits for the loss as well, when the backward pass is queued. A model that draws random numbers from Python or
    NumPy, or changes its input in place, may give something else the second time.

    Args:
        path: the file, replaced if it is there; None writes none. Nothing is written in a sandbox.

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
        The first output that is not finite is that of `0` (Log), made of finite inputs.
    """

    order = 50
    before = (TerminateOnNaNCallback,)  # which would end the fit first

    def __init__(self, path: str | os.PathLike[str] | None = "nan_report.pt") -> None:
        self.path = None if path is None else Path(path).expanduser().absolute()  # wherever the program goes next
        self.report: NaNReport | None = None
        self._passes: list[Rewind] = []  # one within the other

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        self.report = None

    def before_epoch(self, learn: Learner) -> None:
        """Make room for the state before a batch."""
        self._passes.append(Rewind(learn.model))

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Put the state by, or back; here, where a second run passes by as well, inside what wraps it."""
        if self._passes:
            before = self._passes[-1]
            if before.is_again:
                before.restore(learn)
            else:
                before.keep(learn)
        action()

    def after_loss(self, learn: Learner) -> None:
        """Look at the loss, or send for it where that would stall a device."""
        if learn.loss.is_cpu:
            if not math.isfinite(learn.loss.item()):
                self._report(learn, learn.loss.item())
        elif self._passes:
            self._passes[-1].loss = _sent_for(learn.loss)

    def around_backward(self, learn: Learner, action: Callable[[], None]) -> None:
        """Look at the loss while the device is busy, and before anybody can make a step."""
        action()
        self._look_at_sent(learn)

    def after_batch(self, learn: Learner) -> None:
        """Look at the loss of a pass that does not train."""
        self._look_at_sent(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Let go."""
        self._passes.pop()

    def state_dict(self) -> dict[str, Any]:
        """Return the report, which has ended the fit; within a pass there is nothing to keep."""
        if self.report is None:
            return {}
        return self.report._asdict() | {name: [list(stats) for stats in getattr(self.report, name)] for name in _STATS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        stats = {name: tuple(TensorStats(*values) for values in state[name]) for name in _STATS if state}
        self.report = NaNReport(**state | stats) if state else None

    def _look_at_sent(self, learn: Learner) -> None:
        if self._passes and (loss := self._passes[-1].loss):
            self._passes[-1].loss = None
            if not math.isfinite(value := loss()):
                self._report(learn, value)

    def _report(self, learn: Learner, loss: float) -> None:
        """Tell where a loss comes from, write the file, end the fit."""
        if not self._passes:  # added in the middle of a pass, and not there before the batch
            return
        path = None if self.path is None or learn.in_sandbox else self.path
        try:
            report = self._explain(learn, loss, path)
        except Exception as error:  # whatever it is, it must not be all that is told
            error.add_note(
                f"raised while the cause of a loss was looked for that was {loss} in epoch {learn.epoch}, loader "
                f"{learn.dl_name!r}, batch {learn.i}"
            )
            raise
        inputs = f" What went in: {'; '.join(map(str, report.inputs))}." if report.inputs else ""
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
        """Run the batch of a file again, in a sandbox, and return the report of that.

        To the bit the same on the same kind of device.

        Args:
            path: the file.
            learn: with such a model, loss function and callbacks as then; whatever its weights and loaders are.

        Raises:
            ValueError: if the file is none of these, is of another model, or could not keep what went in.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or "rng" not in saved:
            raise ValueError(f"`path` must be a file of NaNReportCallback, got {os.fspath(path)!r}.")
        if saved["lost"]:
            raise ValueError(
                f"`path` must hold the whole batch to run it again, got descriptions of {listed(saved['lost'])}; "
                f"such parts cannot be kept."
            )
        again = NaNReportCallback(path=None)
        with learn.sandbox(), learn.added(again), torch.set_grad_enabled(saved["role"] == "train"):
            load_batch_state(learn, saved)
            before = Rewind(learn.model)
            before.keep(learn)
            before.rng = [saved["rng"].get(name, state) for name, state in before.rng_by_device().items()]
            again._passes.append(before)
            return _run_again(learn, before, saved["loss"], Path(path).expanduser().absolute())


def _sent_for(loss: Tensor) -> Callable[[], float]:
    """Return what gives the value of a loss later, without waiting for what is queued after it."""
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
    """Run a batch from the state before it, with hooks; leave the buffers so, and the random numbers as they are."""
    layers = named_layers(learn.model)
    if isinstance(learn.loss_f, nn.Module):
        layers |= {f"loss_f.{name}".rstrip("."): module for name, module in named_layers(learn.loss_f).items()}
    batch, weights = (*stats_of("xb", before.xb), *stats_of("yb", learn.yb)), _bad_weights(learn.model)
    learn.loss = learn.output = learn.preds = None  # makes room for a second graph
    watch = FirstBad()
    before.is_again = True  # to the end: nothing comes after it in that pass
    with ExitStack() as stack:
        stack.callback(before.restore_buffers)
        stack.enter_context(preserved_rng())
        stack.enter_context(uncompiled())
        for name, module in layers.items():
            if not can_be_hooked(module):  # the module around it tells
                continue
            leave = partial(watch.leave, name, type(module).__name__)
            stack.callback(Tap(module, watch.enter, leave).remove)
        learn.predict()
        learn.get_loss()
    if watch.first is None:  # else the loss function is no module, or the learner's own
        watch.enter((learn.preds, learn.yb), {})
        watch.leave("loss_f", getattr(learn.loss_f, "__name__", type(learn.loss_f).__name__), learn.loss)
    first = watch.first or (None, None, (), ())
    return NaNReport(
        epoch=learn.epoch,
        dl_name=learn.dl_name,
        i=learn.i,
        loss=math.nan if math.isnan(loss) else loss,  # this very NaN, so that equal reports are equal
        module=first[0],
        kind=first[1],
        inputs=first[2],
        outputs=first[3],
        batch=batch,
        weights=weights,
        path=None if path is None else str(path),
    )


def _bad_weights(model: nn.Module) -> tuple[str, ...]:
    """Name the parameters that hold NaN or inf and the buffers that hold NaN; a mask may well hold inf."""
    buffers = {id(buffer) for buffer in model.buffers()}
    weights = weights_of(model).items()
    return tuple(name for name, w in weights if (has_nan(w) if id(w) in buffers else not is_finite(w)))
