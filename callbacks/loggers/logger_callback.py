"""Send what a training does to a service that shows runs."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from callbacks.loggers.fit_info import describe_end, describe_fit
from callbacks.loggers.logger import Logger, Point
from callbacks.loggers.outbox import Outbox
from callbacks.measure.validate import ValidateCallback
from learner import Callback, Learner, LearnerError
from learner.data.numbers import real_number
from learner.data.seeding import guarded_generators
from learner.records.info import plain

_PAUSE = 10.0  # [s] between two deliveries of values of batches, at least
_SHARE = 0.1  # [0-1] of the time that deliveries may take, at most
_METHODS = ("start", "scalars", "figure", "text", "file", "end")


class LoggerCallback(Callback):
    """Send a fit to a service: what is trained, a row of numbers for each epoch, losses and rates by step, pictures.

    The rows are those of `learn.history`. For each optimizer step there is the loss of its batch, `train/batch_loss`,
    and the learning rate `lr`, or `lr/0`, `lr/1`, … where the optimizer has several groups; of a `ValidateCallback`,
    what it found. All of them lie over the optimizer steps, and a row has its `epoch` as well. Losses are read every
    10 s, or when an epoch ends: no batch waits for the device. A slow service takes a tenth of the time at most, after
    which it gets the rest. `every = 50` sends the loss of every 50th batch.

    At the beginning it sends the model as text, at the end how the fit ended, and where it ended well the pictures of
    callbacks that have a method `figures`, such as `ActivationStats`. It sends nothing in a sandbox.

    One callback is one run: later fits of the learner and fits that go on from a checkpoint go on with it, and put what
    they send in the place of what a killed training has sent since that checkpoint. With another learner it begins a
    run anew.

    A service that cannot begin is an error before anything is trained. One that fails later is a warning: training goes
    on, and the values are sent as soon as it works again, those of the epochs at the end of the fit at the latest.

    Args:
        logger: the service; see `Logger`.
        config: what is worth knowing about the run, beside what the callback says of the learner.

    Attributes:
        run_id: the service's id of the run; None before the first fit.

    Reads:
        `n_steps`, `loss`, `opt`, `history`, `epoch`, `dl_name`; for the config `model`, `loss_f`, `n_epochs`, `dls`,
        `cbs`.

    Raises:
        TypeError: if `logger` lacks a method, or `config` holds something that cannot be kept as text.
        LearnerError: when a fit begins, if the service cannot.

    Example: see `Logger` for a service of one's own.
        >>> from callbacks import TensorBoardCallback
        >>> issubclass(TensorBoardCallback, LoggerCallback)
        True
    """

    order = 100

    def __init__(self, logger: Logger, config: Mapping[str, Any] | None = None) -> None:
        if missing := [name for name in _METHODS if not callable(getattr(logger, name, None))]:
            raise TypeError(f"`logger` must have the methods {', '.join(_METHODS)}, got {logger!r} without {missing}.")
        if not isinstance(config, Mapping | None):
            raise TypeError(f"`config` must be a mapping, got {config!r}; do `vars(args)`, or `asdict(config)`.")
        self.logger, self.config = logger, plain("config", {} if config is None else config)
        self.run_id: str | None = None
        self._step = 0  # the last one that the run has heard of
        self._is_fitting = self._is_on = self._is_open = False
        self._outbox = Outbox()
        self._said: set[str] = set()
        self._n_rows = self._epoch = 0
        self._validations: list[ValidateCallback] = []
        self._n_validations: list[int] = []  # rows of each that were taken
        self._free = self._due = 0.0  # [s] when the service may be asked again, and when values of batches are due

    # -- the fit -------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Begin the run, or go on with it."""
        self._is_fitting, self._is_on, self._is_open = False, not learn.in_sandbox, False
        self._outbox, self._said = Outbox(), set()
        self._epoch = 0
        self._validations = [cb for cb in learn.cbs if isinstance(cb, ValidateCallback)]
        self._n_validations = [0] * len(self._validations)
        self._n_rows = sys.maxsize if learn.is_resumed else len(learn.history)  # no row before the state is put back
        self._free, self._due = 0.0, perf_counter() + _PAUSE
        if learn.n_steps < self._step:
            self.run_id = None  # of another learner
        self._step = learn.n_steps
        if self._is_on and not learn.is_resumed:
            self._open(learn)
        self._is_fitting = True

    def before_epoch(self, learn: Learner) -> None:
        """Send the epoch before, when a new one begins; its row is complete by then."""
        if self._is_on and not self._is_open:
            self._open(learn)
        if self._is_on and learn.epoch != self._epoch:
            self._epoch = learn.epoch
            self._take_rows(learn)
            if perf_counter() >= self._free:
                self._send()

    def after_backward(self, learn: Learner) -> None:
        """Keep the loss and the rates of the step that comes now."""
        if self._is_on and learn.opt is not None and learn.loss is not None:
            self._step = learn.n_steps + 1
            self._outbox.add_batch(self._step, learn.dl_name, learn.loss.detach(), _rates(learn.opt.param_groups))

    def after_batch(self, learn: Learner) -> None:
        """Send what there is, if it is time."""
        if self._is_on and perf_counter() >= self._due:
            self._send()

    def cleanup_fit(self, learn: Learner) -> None:
        """Send the last values, also of a fit that was cut short, and how it ended."""
        self._is_fitting = False
        if not self._is_on or not self._is_open:
            return
        end = describe_end(learn.ended_by)
        self._take_rows(learn)
        self._send()
        if end["status"] == "finished":
            self._send_figures(learn)
        self._try("end", self.logger.end, end["status"], end.get("error"))
        self._is_on = self._is_open = False
        self._validations = []

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is, and what has not been sent yet; waits for the device."""
        counts = {
            "step": self._step,
            "n_rows": self._n_rows,
            "epoch": self._epoch,
            "validations": list(self._n_validations),
        }
        return {"run_id": self.run_id, **counts, "points": self._outbox.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.run_id, self._step, self._n_rows = state["run_id"], state["step"], state["n_rows"]
        self._epoch, self._n_validations = state["epoch"], list(state["validations"])
        self._outbox.load_state_dict(state["points"])

    # -- what a user sends ---------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """Send numbers, at the step that was made last.

        Args:
            values: numbers by name, or tensors with one, which are waited for.

        Raises:
            TypeError: if it is not a mapping, or one is not a number.
            LearnerError: outside of a fit.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"`values` must be a mapping from names to numbers, got {values!r}.")
        point = Point(self._step, {name: real_number(value, name) for name, value in values.items()})
        if self._is_there():
            self._outbox.add(point)

    def log_figure(self, name: str, figure: Any) -> None:
        """Send a figure of matplotlib; as for `log`, of what there is then."""
        if not hasattr(figure, "savefig"):
            raise TypeError(f"`figure` must be a figure of matplotlib, got {figure!r}; of axes, `ax.figure`.")
        if self._is_there():
            self._try("draw", self._send_figure, name, figure)

    def log_text(self, name: str, text: str) -> None:
        """Send a text, at the step that was made last."""
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a string, got {text!r}.")
        if self._is_there():
            self._send_text(name, text)

    def log_file(self, path: str | Path) -> None:
        """Send a copy of a file.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"`path` must be a file, got {str(path)!r}.")
        if self._is_there():
            self._try("file", self.logger.file, Path(path))

    def _is_there(self) -> bool:
        """Return whether there is a run to send to; in a sandbox there is none."""
        if not self._is_fitting:
            raise LearnerError(
                f"`{type(self).__name__}` must be sent to within a fit, for a run is open as long as that; do it in a "
                f"callback's `after_fit`."
            )
        return self._is_on and self._is_open

    # -- sending -------------------------------------------------------------------------------------------------------

    def _open(self, learn: Learner) -> None:
        """Begin the run, or go on with it, from the first step that there is or will be something of."""
        config = {**self.config, "seed": torch.initial_seed(), "learner": describe_fit(learn)}
        first = self._outbox.first_step(otherwise=learn.n_steps + 1)
        try:
            with guarded_generators():  # services draw names of runs, and a seed would decide them
                self.run_id = self.logger.start(self.run_id, first, config)
        except Exception as error:
            self._is_on = False
            raise LearnerError(
                f"`{type(self).__name__}` must be able to begin its run, got {type(error).__name__}: {error}"
            ) from error
        self._is_open = True
        self._n_rows = min(self._n_rows, len(learn.history))  # of a checkpoint that knows nothing of this callback
        self._try("text", self.logger.text, "model", str(learn.model), learn.n_steps)

    def _take_rows(self, learn: Learner) -> None:
        """Take what the history has and the service has not."""
        rows = learn.history.rows[self._n_rows :]
        self._n_rows += len(rows)
        for row in rows:
            texts = {name: value for name, value in row.items() if isinstance(value, str)}
            values = {name: float(value) for name, value in row.items() if name not in texts}
            self._outbox.add(Point(learn.n_steps, values))
            for name, text in texts.items():
                self._send_text(name, f"epoch {row['epoch']}, {text}")

    def _take_validations(self) -> None:
        """Take what was found since the last time, between epochs."""
        for i, cb in enumerate(self._validations):
            for n_steps, metrics in cb.rows[self._n_validations[i] :]:
                self._outbox.add(Point(n_steps, {f"{cb.loader}/{name}": value for name, value in metrics.items()}))
            self._n_validations[i] = len(cb.rows)

    def _send(self) -> None:
        """Send all numbers, and find out when the next ones may be."""
        start = perf_counter()
        self._take_validations()
        if (points := self._outbox.read()) and self._try("scalars", self.logger.scalars, points):
            self._outbox.mark_sent()
        end = perf_counter()
        self._free = end + (end - start) / _SHARE
        self._due = max(self._free, end + _PAUSE)

    def _send_text(self, name: str, text: str) -> None:
        self._send()  # a service may want all that it gets in the order of the steps
        self._try("text", self.logger.text, name, text, self._step)

    def _send_figures(self, learn: Learner) -> None:
        """Send the pictures of callbacks that have some."""
        for cb in learn.cbs:
            if hasattr(cb, "figures"):
                self._try("draw", self._send_figures_of, cb)

    def _send_figures_of(self, cb: Any) -> None:
        from matplotlib import pyplot as plt

        for name, figure in cb.figures().items():
            self._try("draw", self._send_figure, name, figure)
            plt.close(figure)

    def _send_figure(self, name: str, figure: Any) -> None:
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight")
        self._send()
        self._try("figure", self.logger.figure, name, png.getvalue(), self._step)

    def _try(self, what: str, call: Callable[..., Any], *args: Any) -> bool:
        """Do something that may fail without ending the training; return whether it went well."""
        try:
            with guarded_generators():
                call(*args)
        except Exception as error:
            kind = "draw a figure" if what == "draw" else "reach its service"
            if kind not in self._said:
                self._said.add(kind)
                warnings.warn(
                    f"`{type(self).__name__}` could not {kind} (`{what}`): {type(error).__name__}: {error}. Training "
                    f"goes on; values are sent as soon as it can be reached again, and `learn.history` has them.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return False
        return True


def _rates(groups: list[dict[str, Any]]) -> list[Tensor | float]:
    """Return the learning rate of each group; one that is a tensor is changed in place, so it is copied."""
    return [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]
