"""Log to Weights & Biases."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.loggers.logger import Point, Status, imported
from callbacks.loggers.logger_callback import LoggerCallback


class WandbLogger:
    """A run of Weights & Biases; see `WandbCallback`."""

    def __init__(self, **init: Any) -> None:
        self._wandb = imported("wandb", "wandb")
        if "resume" in init:
            raise TypeError("`resume` must be left out: a fit that goes on goes on with its run; `id=` names one.")
        self.init = init
        self._run: Any = None
        self._is_own = True

    def start(self, run_id: str | None, step: int, config: Mapping[str, Any]) -> str:
        """Begin a run, or take the one that is active where nothing was asked for."""
        self._is_own = bool(self.init) or run_id is not None or self._wandb.run is None
        if self._is_own:
            known = {} if run_id is None else {"id": run_id, "resume": "allow"}
            self._run = self._wandb.init(**{**self.init, **known})
        else:
            self._run = self._wandb.run
        self._run.config.update(dict(config), allow_val_change=True)
        return str(self._run.id)

    def scalars(self, points: Sequence[Point]) -> None:
        """Hand the numbers over; what the run has of later steps already stays."""
        for step, values in points:
            if step >= self._run.step:
                self._run.log(values, step=step)

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Hand a picture over."""
        from PIL import Image

        self._log(name, self._wandb.Image(Image.open(io.BytesIO(png))), step)

    def text(self, name: str, text: str, step: int) -> None:
        """Hand a text over, as a page."""
        self._log(name, self._wandb.Html(f"<pre>{html.escape(text)}</pre>"), step)

    def _log(self, name: str, value: Any, step: int) -> None:
        self._run.log({name: value}, step=max(step, self._run.step))

    def file(self, path: Path) -> None:
        """Hand a file over as it is now."""
        self._run.save(str(path.absolute()), base_path=str(path.absolute().parent), policy="now")

    def end(self, status: Status, reason: str | None) -> None:
        """Put down how it ended, and finish the run, unless it was active before."""
        run, self._run = self._run, None
        run.summary.update({"status": status, "error": reason})
        if self._is_own:
            run.finish(exit_code=int(status != "finished"))


class WandbCallback(LoggerCallback):
    """Log a fit to Weights & Biases.

    What is logged and when says `LoggerCallback`. Without arguments, and with a run that is active, as within a sweep,
    it logs to that and leaves it open. Weights & Biases takes no step twice: of a training that was killed and goes on
    from a checkpoint, it keeps what it was sent before.

    Args:
        config: what is worth knowing about the run: numbers, strings, and lists and mappings of them.
        **init: for `wandb.init`, such as `project="digits"`, `name="first"`, `mode="offline"`, `group="fold 1"`.

    Raises:
        ImportError: if wandb is not installed.
        LearnerError: when a fit begins, if there is no login; do `wandb login`, or `mode="offline"`.

    Example:
        >>> import torch
        >>> from learner import Learner, Loaders
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)))
        >>> logger = WandbCallback(project="digits", mode="disabled")  # "online" if left out
        >>> Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=logger).fit(2)
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **init: Any) -> None:
        super().__init__(WandbLogger(**init), config)
