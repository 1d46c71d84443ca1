"""Log to TensorBoard: event files in a folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.loggers.logger import Point, Status, imported
from callbacks.loggers.logger_callback import LoggerCallback


class TensorBoardLogger:
    """A run as event files, by torch's `SummaryWriter`; see `TensorBoardCallback`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writer_class = imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.path = Path(path).expanduser().absolute()  # wherever the program goes next
        self._writer: Any = None

    def start(self, run_id: str | None, step: int, config: Mapping[str, Any]) -> str:
        """Open an event file; if there are others, TensorBoard forgets what they have from `step` on."""
        has_events = any(self.path.glob("events.out.tfevents.*"))
        # TensorBoard reads files in the order of their names: after the second comes a count, of which 10 is before 9.
        while any(self.path.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.02)
        self._writer = self._writer_class(str(self.path), purge_step=step if has_events else None)
        self.text("config", f"```json\n{json.dumps(config, indent=2)}\n```", step - 1)
        return str(self.path)

    def scalars(self, points: Sequence[Point]) -> None:
        """Write the numbers, and see to it that they are in the file."""
        for step, values in points:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Write a picture."""
        from PIL import Image

        self._writer.add_image(name, np.array(Image.open(io.BytesIO(png))), step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        """Write a text, which is Markdown there."""
        self._writer.add_text(name, text, step)

    def file(self, path: Path) -> None:
        """Copy a file to `files/` beside the events: TensorBoard itself shows none."""
        (self.path / "files").mkdir(exist_ok=True)
        shutil.copy(path, self.path / "files" / path.name)

    def end(self, status: Status, reason: str | None) -> None:
        """Write how it ended, and close the file."""
        writer, self._writer = self._writer, None
        writer.add_text("status", status if reason is None else f"{status}: {reason}")
        writer.close()


class TensorBoardCallback(LoggerCallback):
    """Write a fit to event files, which `tensorboard --logdir path` shows.

    What is written and when says `LoggerCallback`. A fit that begins anew in a folder that has events of another run
    makes TensorBoard forget these; take a folder for each run. Event files hold numbers in float32.

    Args:
        path: the folder of the run.
        config: what is worth knowing about the run: numbers, strings, and lists and mappings of them.

    Raises:
        ImportError: if tensorboard is not installed.
        LearnerError: when a fit begins, if the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from learner import Learner, Loaders
        >>> path = Path(tempfile.mkdtemp()) / "first"
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)))
        >>> logger = TensorBoardCallback(path, config={"width": 1})
        >>> Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=logger).fit(2)
        >>> [file.name for file in path.iterdir()]
        ['events.out.tfevents...']
    """

    def __init__(self, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> None:
        super().__init__(TensorBoardLogger(path), config)
