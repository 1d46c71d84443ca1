"""Log to Trackio."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from callbacks.loggers.logger import Names, Point, Status, imported
from callbacks.loggers.logger_callback import LoggerCallback

_RESERVED = ("project", "run", "timestamp", "step", "time", "metrics")


class TrackioLogger:
    """A run of Trackio; see `TrackioCallback`."""

    def __init__(self, project: str, name: str | None = None, **init: Any) -> None:
        self._trackio = imported("trackio", "trackio")
        if "resume" in init:
            raise TypeError("`resume` must be left out: a fit that goes on goes on with its run.")
        self.project, self.name, self.init = project, name, init
        self._run: Any = None
        self._names = Names(trackio_name)
        self._known: set[tuple[int, str, str]] = set()

    def start(self, run_id: str | None, step: int, config: Mapping[str, Any]) -> str:
        """Begin a run, or go on with the one of this name, of which is read what it has."""
        if not {"space_id", "server_url"} & self.init.keys():
            _check_folder(imported("trackio.utils", "trackio").TRACKIO_DIR)
        is_known = run_id is not None
        name, resume = (run_id, "allow") if is_known else (self.name, "never")
        self._run = self._trackio.init(self.project, name, config=dict(config), resume=resume, **self.init)
        self._known = self._on_record() if is_known else set()
        return str(self._run.name)

    def _on_record(self) -> set[tuple[int, str, str]]:
        """Return what the run has in the local database; a Space is not asked."""
        storage = imported("trackio.sqlite_storage", "trackio").SQLiteStorage
        rows = storage.get_logs(self.project, self._run.name)
        return {(row["step"], name, str(value)) for row in rows for name, value in row.items()}

    def scalars(self, points: Sequence[Point]) -> None:
        """Hand the numbers over, but for those that the run has to the last digit."""
        for step, values in points:
            named = {self._names[name]: value for name, value in values.items()}
            new = {name: value for name, value in named.items() if (step, name, str(value)) not in self._known}
            if new:
                self._run.log(new, step=step)

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Hand a picture over."""
        from PIL import Image

        self._run.log({self._names[name]: self._trackio.Image(Image.open(io.BytesIO(png)))}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Hand a text over, as it is in Markdown."""
        self._run.log({self._names[name]: self._trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def file(self, path: Path) -> None:
        """Hand a file over, as an artifact of its name."""
        self._run.log_artifact(path)

    def end(self, status: Status, reason: str | None) -> None:
        """Put down how it ended, with an alert if that was not well, and finish the run."""
        run, self._run = self._run, None
        run.log({"status": self._trackio.Markdown(status if reason is None else f"{status}: {reason}")})
        if status != "finished":
            run.alert(title=status, text=reason, level=self._trackio.AlertLevel.ERROR)
        run.finish()


class TrackioCallback(LoggerCallback):
    """Log a fit to Trackio: to its database on this machine, or to a Space.

    What is logged and when says `LoggerCallback`. `trackio show` shows it; a fit that does not end well is an alert
    there. Trackio itself warns of what it cannot write or send. Of a run in a Space that is gone on with, what was sent
    since the checkpoint is there twice.

    Args:
        project: its name.
        name: of the run, unlike those of the other runs of the project; None for one that Trackio makes up.
        config: what is worth knowing about the run: numbers, strings, and lists and mappings of them.
        **init: for `trackio.init`, such as `space_id="me/digits"`, `group="fold 1"`.

    Raises:
        ImportError: if trackio is not installed.
        LearnerError: when a fit begins, if its folder cannot be written to, or Trackio refuses what it is given.

    Example:
        >>> logger = TrackioCallback("digits", config={"width": 1})
        >>> logger.run_id is None  # until a fit begins
        True
    """

    def __init__(
        self, project: str, name: str | None = None, config: Mapping[str, Any] | None = None, **init: Any
    ) -> None:
        super().__init__(TrackioLogger(project, name, **init), config)


def trackio_name(name: str) -> str:
    """Return a name that Trackio does not take for its own.

    Example:
        >>> trackio_name("train/loss"), trackio_name("step")
        ('train/loss', 'metric_step')
    """
    return f"metric_{name}" if name in _RESERVED or name.startswith("__") else name


def _check_folder(folder: Path) -> None:
    """Find out now whether something can be written to a folder: Trackio itself warns and goes on without.

    Raises:
        OSError: if nothing can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass
