"""Record with torch's profiler what host and device do in a few batches, and write it to a file."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile, record_function, schedule

from callbacks.speed.profile_table import profile_table
from learner import Callback, Learner, LearnerError
from learner.checkpoint.atomic import replacing
from learner.loop.tell import tell

_ENDINGS = (".json.gz", ".json")
_OWN = ("schedule", "on_trace_ready", "acc_events", "use_cuda")  # the last one is deprecated


class ProfilerCallback(Callback):
    """Profile a few batches of a fit: write a trace to look at in Perfetto, and print where the time went.

    A trace holds what host and device do, moment by moment; open it at https://ui.perfetto.dev, which keeps it in the
    browser. Each batch is a span `ProfilerStep#`, each action a span named by action and loader: `predict train`,
    `get_loss valid`, `next batch train`. All batches count, those of validation too; to see training alone, set
    `loaders = "train"` on it. In a sandbox nothing is profiled. Batches that are not recorded cost next to nothing.

    Profiling makes the host slower, which shows most in small models: compare the spans with each other, and see
    `Learner.timed` for what callbacks cost.

    Args:
        path: the file of the trace, `.json`, or `.json.gz` for a small one. With `repeat` above 1 there is one for each
            time: `trace_1.json`, `trace_2.json`. Folders are made where they are missing.
        wait: batches to leave out.
        warmup: batches to profile and throw away after that, for the first ones are slow.
        active: batches to record after that.
        repeat: how often to do all this.
        options: of `torch.profiler.profile`, such as `record_shapes=True`, `with_stack=True`, `profile_memory=True`.

    Attributes:
        paths: the files that the last fit wrote.
        averages: of all that was recorded, by operator, as `torch.profiler.profile.key_averages` gives it; or None.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range; in `before_fit`, if the file cannot
            be written.
        LearnerError: if two profilers run at once, this one or another of torch.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x, folder = torch.zeros(16, 3), Path(tempfile.mkdtemp())
        >>> dls = Loaders.from_arrays(train=(x, x[:, :1]), batch_size=2)
        >>> Learner(nn.Linear(3, 1), dls, nn.functional.mse_loss).fit(1, cbs=ProfilerCallback(folder / "trace.json"))
        profiled 3 batches: .../trace.json, to be opened at https://ui.perfetto.dev
        span ...
        >>> (folder / "trace.json").exists()
        True
    """

    order = -999  # around all that others do to a step
    is_observer = True
    ranks = "first"

    def __init__(
        self,
        path: str | os.PathLike[str],
        wait: int = 1,
        warmup: int = 1,
        active: int = 3,
        repeat: int = 1,
        **options: Any,
    ) -> None:
        self.path, self._ending = _checked_path(path)
        counts = {"wait": (wait, 0), "warmup": (warmup, 0), "active": (active, 1), "repeat": (repeat, 1)}
        for name, (value, least) in counts.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        self.wait, self.warmup, self.active, self.repeat = wait, warmup, active, repeat
        self.options = _checked_options(options)
        self.paths: list[Path] = []
        self.averages: Any = None
        self._profiler: profile | None = None
        self._is_open = False  # whether this batch is profiled
        self._fetch: record_function | None = None  # the span of waiting for the next batch
        self._n_batches = self._n_active = self._n_recorded = 0  # seen; recorded for the next file, and in all

    def before_fit(self, learn: Learner) -> None:
        """Get ready to profile, and find out now whether that can be."""
        self.paths, self.averages, self._n_batches, self._n_active, self._n_recorded = [], None, 0, 0, 0
        if learn.in_sandbox:
            return
        if any(isinstance(cb, ProfilerCallback) and cb is not self for cb in learn.cbs):
            raise LearnerError("`cbs` must hold one ProfilerCallback, got two: torch has one profiler; take one out.")
        _refuse_another()
        self.path = _writable(self.path)
        cycle = schedule(wait=min(self.wait, 1), warmup=self.warmup, active=self.active, repeat=self.repeat)
        self._profiler = profile(schedule=cycle, on_trace_ready=self._write, acc_events=True, **self.options)
        self._is_open = self.wait == 0
        self._profiler.start()

    def before_batch(self, learn: Learner) -> None:
        """End the wait for the batch."""
        if self._is_open:
            self._end_fetch()

    def around_predict(self, learn: Learner, action: Callable[[], object]) -> None:
        """Record a span."""
        self._record("predict", learn, action)

    def around_get_loss(self, learn: Learner, action: Callable[[], object]) -> None:
        """Record a span."""
        self._record("get_loss", learn, action)

    def around_backward(self, learn: Learner, action: Callable[[], object]) -> None:
        """Record a span."""
        self._record("backward", learn, action)

    def around_step(self, learn: Learner, action: Callable[[], object]) -> None:
        """Record a span."""
        self._record("step", learn, action)

    def around_zero_grad(self, learn: Learner, action: Callable[[], object]) -> None:
        """Record a span."""
        self._record("zero_grad", learn, action)

    def cleanup_batch(self, learn: Learner) -> None:
        """Go on to the next batch; write when the last one of a cycle is done."""
        if self._profiler is None:
            return
        cycle = self.wait + self.warmup + self.active
        if self._n_batches % cycle >= self.wait + self.warmup:
            self._n_active += 1
        self._n_batches += 1
        place = self._n_batches % cycle
        if 0 < place < self.wait:  # the schedule has one batch for all that are left out
            return
        if place == self.wait > 0:
            _refuse_another()
        self._end_fetch()
        self._is_open = place >= self.wait
        self._profiler.step()
        if self._n_batches == cycle * self.repeat:
            self._stop()
        elif self._is_open:
            self._fetch = record_function(f"next batch {learn.dl_name}")
            self._fetch.__enter__()  # type: ignore[no-untyped-call]

    def after_epoch(self, learn: Learner) -> None:
        """End the wait for a batch that there was not."""
        self._end_fetch()

    def cleanup_epoch(self, learn: Learner) -> None:
        """End the wait for a batch, also where it failed."""
        self._end_fetch()

    def cleanup_fit(self, learn: Learner) -> None:
        """Stop, and write what there is of an unfinished cycle."""
        if self._profiler is not None:
            self._stop()

    def _record(self, action_name: str, learn: Learner, action: Callable[[], object]) -> None:
        if self._is_open:
            with record_function(f"{action_name} {learn.dl_name}"):
                action()
        else:
            action()

    def _end_fetch(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.__exit__(None, None, None)

    def _stop(self) -> None:
        """Stop the profiler and say what came of it."""
        profiler, self._profiler, self._is_open = self._profiler, None, False
        self._end_fetch()
        profiler.stop()  # type: ignore[union-attr]  # it was there
        if not self.paths:
            first = self.wait + self.warmup + 1
            tell(
                f"ProfilerCallback: nothing was written, for the fit had {self._n_batches} batches, and the first that "
                f"is recorded is batch {first} (wait={self.wait}, warmup={self.warmup})."
            )
            return
        self.averages = profiler.key_averages()  # type: ignore[union-attr]
        files = ", ".join(map(str, self.paths))
        tell(
            f"profiled {self._n_recorded} {'batch' if self._n_recorded == 1 else 'batches'}: {files}, to be opened at https://ui.perfetto.dev\n"
            f"{profile_table(self.averages, self._n_recorded)}"
        )

    def _write(self, profiler: profile) -> None:
        """Write a cycle to its file, if a whole batch was recorded."""
        if not self._n_active:
            return
        path = self.path
        if self.repeat > 1:
            path = path.with_name(f"{path.name.removesuffix(self._ending)}_{len(self.paths) + 1}{self._ending}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"trace{self._ending}")  # torch goes by the ending, and hides that it cannot write
            profiler.export_chrome_trace(str(file))
            with file.open("rb") as whole, replacing(path) as target:
                shutil.copyfileobj(whole, target)
        self.paths.append(path)
        self._n_recorded += self._n_active
        self._n_active = 0


def _refuse_another() -> None:
    """Refuse to profile while something else does: torch would let it, and each would miss a part."""
    if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]  # torch has no public way to ask
        raise LearnerError(
            "`ProfilerCallback` must be the only profiler, and another one of torch runs already; stop that one, or "
            "leave this one out."
        )


def _checked_path(path: Any) -> tuple[Path, str]:
    """Return a path that a trace may have, and its ending."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be the path of a file, got {path!r}.")
    ending = next((ending for ending in _ENDINGS if os.fspath(path).endswith(ending)), None)
    if ending is None:
        raise ValueError(f"`path` must end in .json or .json.gz, got {os.fspath(path)!r}; Perfetto opens these.")
    return Path(path).expanduser(), ending


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return options that torch's profiler takes."""
    known = [name for name in inspect.signature(profile).parameters if name not in _OWN]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"`options` must be among {', '.join(known)}, got {', '.join(unknown)}.")
    try:
        profile(**options)  # torch looks at their kinds
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"`options` must be what torch.profiler.profile takes, got {options}: {error}.") from error
    return options


def _writable(path: Path) -> Path:
    """Return a path wherever the program goes next; refuse one that cannot be written to."""
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"`path` must be a file that can be written, got {str(path)!r}: {error}.") from error
    return path
