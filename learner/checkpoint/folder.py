"""A folder of checkpoints: the newest that is whole is found, and old ones go."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from learner.checkpoint.atomic import set_aside
from learner.checkpoint.file import is_whole, read_checkpoint, write_checkpoint
from learner.checkpoint.lock import LOCK, Lock
from learner.checkpoint.shards import SUFFIX, is_whole_folder
from learner.errors import LearnerError

Keep = int | Literal["all", "spread"]  # how many checkpoints to keep

_N_NEWEST = 3  # that are kept of those that are spread: one may be damaged
_NAME = re.compile(r"step-(\d{8,18})(\.best)?\.pt", re.ASCII)
_SHARDS = re.compile(rf"step-(\d{{8,18}})(-\d+)?\{SUFFIX}(\.tmp)?", re.ASCII)  # a folder, of a model in shards
_TEMPORARY = re.compile(rf"{_NAME.pattern}\.(\d{{1,18}})-[0-9a-f]+\.tmp", re.ASCII)


def spread(steps: Sequence[int]) -> list[int]:
    """Return which of some steps, the newest last, to keep: ever fewer as they grow older, and always the first.

    Those are the newest three, and before them as few as it takes for no gap to be wider than half of its age: from the
    checkpoint before any step, the way to it is at most a third of the way from there to the newest one. What it leaves
    out, it leaves out of the rest as well when more steps come; their number grows as the logarithm of that of all.

    Example:
        >>> kept = []
        >>> for step in range(0, 1001):
        ...     kept = spread([*kept, step])
        >>> kept[:12], len(kept)
        ([0, 256, 384, 512, 640, 704, 768, 832, 864, 896, 928, 944], 24)
    """
    kept = list(steps[:1])
    for i, step in enumerate(steps[1:], 1):
        is_new = i >= len(steps) - _N_NEWEST
        if is_new or steps[i + 1] - kept[-1] > (steps[-1] - steps[i + 1]) / 2:
            kept.append(step)
    return kept


class CheckpointFolder:
    """Keep the last few checkpoints of one run in a folder, and the best.

    Files are `step-00000042.pt`, the best one is `step-00000042.best.pt`. Other files, links and damaged checkpoints
    are never deleted, and an old checkpoint only when `keep` newer ones were gone through and can be read. A new
    run wants a new folder, or `set_aside`. Of a model in shards there is a folder `step-00000042.shards` besides, which
    goes with the last file of its step.

    Writing takes a lock, at the first `save` or at the beginning of a `with` block, until `close`. The system holds
    it, so it is gone with the process, however that ends; reading needs none.

    Args:
        path: the folder, made when first written to.
        keep: how many to keep besides the best; "all"; or "spread", as `spread` chooses them.

    Raises:
        TypeError, ValueError: if `keep` is none of these, or `path` is no path.

    Example:
        >>> import tempfile
        >>> with CheckpointFolder(tempfile.mkdtemp(), keep=2) as folder:
        ...     for step in range(5):
        ...         _ = folder.save({"loss": 1 / (1 + step)}, step, is_best=step == 1)
        >>> sorted(path.name for path in folder.path.glob("*.pt"))
        ['step-00000001.best.pt', 'step-00000003.pt', 'step-00000004.pt']
        >>> path, state = folder.newest()
        >>> path.name, state
        ('step-00000004.pt', {'loss': 0.2, 'step': 4})
    """

    def __init__(self, path: str | os.PathLike[str], keep: Keep = 3) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"`path` must be the path of a folder, got {path!r}.")
        if not os.fspath(path):
            raise ValueError("`path` must be the path of a folder, got ''; do 'runs/checkpoints'.")
        if keep not in ("all", "spread"):
            if type(keep) is not int:
                raise TypeError(f"`keep` must be a whole number, 'all' or 'spread', got {keep!r}.")
            if keep < 1:
                raise ValueError(f"`keep` must be at least 1, got {keep}.")
        self.path, self.keep = Path(path).expanduser().absolute(), keep  # wherever the program goes next
        self._lock: Lock | None = None
        self._whole: set[Path] = set()  # written or read by this object

    def save(self, state: Mapping[str, Any], step: int, is_best: bool = False) -> Path:
        """Write a checkpoint, then delete what is too old; return its path.

        Args:
            state: plain data. The file has `step` as well.
            step: how far the run is.
            is_best: keep it until another one is the best.

        Raises:
            TypeError, ValueError: for a step that is none, or naming the place of what is not plain data.
            LearnerError: if the file cannot be written, or another program writes to the folder. What was there
                before still is.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"`state` must be a dict, got {type(state).__name__}.")
        if type(step) is not int:
            raise TypeError(f"`step` must be a whole number, got {step!r}.")
        if not 0 <= step < 10**18 or state.get("step", step) != step:
            raise ValueError(f"`step` must be at least 0 and that of the state, got {step}.")
        self.open()
        path = self.path / f"step-{step:08d}{'.best' if is_best else ''}.pt"
        write_checkpoint(path, {**state, "step": step}, follow_link=False)
        self._whole.add(path)
        try:
            if is_best:
                self._demote(path)
            self._prune(path)
            self._prune_shards(step)
        except OSError as error:
            warnings.warn(f"Old checkpoints in `{self.path}` stay: {error}", RuntimeWarning, stacklevel=2)
        return path

    def new_shards(self, step: int) -> Path:
        """Return a folder for the shards of a step, which is not there yet."""
        names = (f"step-{step:08d}{f'-{n}' if n else ''}{SUFFIX}" for n in itertools.count())
        return next(self.path / name for name in names if not (self.path / name).exists())

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return path and state of the newest checkpoint that is whole, or None if there is none at all.

        Each broken one that is newer is named in a `RuntimeWarning`, and left where it is.

        Raises:
            LearnerError: if all are broken, naming each, or if the folder cannot be read.
        """
        broken: list[str] = []
        for path in reversed(self.files()):
            try:
                state = read_checkpoint(path)
                if state.get("step") != step_of(path):
                    raise LearnerError(f"`{path}` cannot be used: by what it holds, it is step {state.get('step')!r}.")
                if "shards" in state and not is_whole_folder(self.path / Path(state["shards"]).name):
                    raise LearnerError(f"`{path}` cannot be used: `{state['shards']}` is not there as a whole.")
            except LearnerError as error:
                broken.append(str(error))
                continue
            for reason in broken:
                warnings.warn(f"{reason} `{path.name}` is used instead.", RuntimeWarning, stacklevel=2)
            self._whole.add(path)
            return path, state
        if broken:
            raise LearnerError(f"no checkpoint in `{self.path}` is whole:\n" + "\n".join(broken))
        return None

    def best(self) -> Path | None:
        """Return the path of the best checkpoint, or None if there is none."""
        return next((path for path in reversed(self.files()) if _is_best(path)), None)

    def set_aside(self, after: int = -1) -> list[Path]:
        """Rename all checkpoints of later steps, of a future that will not be; return their new paths.

        They become `step-00000042.pt.old` and belong to nobody: neither `newest` nor `save` looks at them again.

        Raises:
            LearnerError: if a file cannot be renamed, or another program writes to the folder.
        """
        self.open()
        try:
            return [set_aside(path) for path in self.files() if step_of(path) > after]
        except OSError as error:
            raise LearnerError(f"`{self.path}` must be a folder to write to: {error}") from error

    def open(self) -> None:
        """Take the lock, make the folder, and clear away what a killed process left half written.

        Raises:
            LearnerError: if another program writes to the folder, or nobody can.
        """
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / LOCK)
            for name in os.listdir(self.path):
                match = _TEMPORARY.fullmatch(name)
                if match and not _is_alive(int(match[3])):
                    (self.path / name).unlink(missing_ok=True)
                if (match := _SHARDS.fullmatch(name)) and match[3]:
                    shutil.rmtree(self.path / name)
        except OSError as error:
            raise LearnerError(f"`{self.path}` must be a folder to write to: {error}") from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def files(self) -> list[Path]:
        """Return the checkpoints, the newest last; a link is none."""
        try:
            with os.scandir(self.path) as entries:
                names = [e.name for e in entries if _NAME.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LearnerError(f"`{self.path}` must be a folder to read from: {error}") from error
        return sorted((self.path / name for name in names), key=lambda path: (step_of(path), path.name))

    def _demote(self, best: Path) -> None:
        """Make what was the best before one among others; what there is of this step besides was written before."""
        for path in self.files():
            if path == best:
                continue
            if not _is_best(path):
                if step_of(path) == step_of(best) and (path in self._whole or is_whole(path)):
                    path.unlink()  # else it would be the newest
                    self._whole.discard(path)
            else:
                other = path.with_name(f"step-{step_of(path):08d}.pt")
                if is_whole(other):  # the same step again, and later
                    path.unlink()
                else:
                    path.replace(other)
                    self._whole |= {other} if path in self._whole else set()

    def _prune(self, newest: Path) -> None:
        """Delete what is older than the last few that are whole; of these, what is not to be kept."""
        if self.keep == "all":
            return
        n_newest = _N_NEWEST if self.keep == "spread" else self.keep
        older = [path for path in self.files() if not _is_best(path) and step_of(path) <= step_of(newest)]
        whole = [path for path in older if path in self._whole]
        if len(whole) < n_newest:
            return
        old = older[: older.index(whole[-n_newest])]
        if self.keep == "spread":
            kept = set(spread([step_of(path) for path in older]))
            old = [path for path in old if step_of(path) not in kept]
        for path in old:
            if path in self._whole or is_whole(path):
                path.unlink(missing_ok=True)
                self._whole.discard(path)

    def _prune_shards(self, newest: int) -> None:
        """Delete the shards of steps of which there is no file, up to the newest one."""
        names = os.listdir(self.path)
        kept = _kept_steps(names)
        for name in names:
            match = _SHARDS.fullmatch(name)
            if match and match[1] not in kept and int(match[1]) <= newest:
                shutil.rmtree(self.path / name)


def _kept_steps(names: Iterable[str]) -> set[str]:
    """Return the steps of which there is a file; one that was set aside counts as well."""
    matches = (_NAME.match(name) for name in names)
    return {match[1] for match in matches if match}


def read_newest(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Return path and content of a checkpoint: of a file, or the newest that is whole in a folder.

    Raises:
        LearnerError: if the file cannot be read, or the folder has no checkpoint that is whole.
    """
    path = Path(path).expanduser()
    if path.is_file() or path.suffix == ".pt":
        return path, read_checkpoint(path)
    if (found := CheckpointFolder(path).newest()) is None:
        raise LearnerError(
            f"`resume` must be a checkpoint or a folder that has one, got {str(path)!r}, where there is none; do "
            f"`resume=True` to begin anew where the callback's own folder is empty."
        )
    return found


def describe_aside(path: Path, n: int, *, goes_on: bool) -> str:
    """Say that checkpoints in a folder were set aside, for a fit that goes on before them, or for another training."""
    files = f"{n} checkpoint{'s' if n > 1 else ''}"
    what = "later than where this fit begins" if goes_on else "of another training"
    hint = "" if goes_on else ", from which `resume=True` would have gone on"
    return f"{path} has {files} {what}{hint}: set aside, with `.old` at the end of the name."


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint; -1 of a file that is named otherwise."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _is_best(path: Path) -> bool:
    return path.name.endswith(".best.pt")


def _is_alive(pid: int) -> bool:
    """Tell whether another process on this machine may still write."""
    if pid == os.getpid():  # of an earlier life: the lock is only being taken
        return False
    if os.name == "nt":  # asking would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
