"""Tensors that are in shards over several processes, in a folder that all of them write, beside the file of the first.

No process has the whole of such a tensor, so it is not in the file: there stand its name, shape and type in its place.
`torch.distributed.checkpoint` writes the values, each process those that it has, and reads them into any other number
of shards, or whole. A folder gets its name when all processes are done, and the file that names it comes after that:
of what was interrupted there is nothing to be found.

The format of the folder is that of torch. Its `.metadata` is a pickle, which is gone through with a list of what may be
in it before torch reads it, and may name files of the folder alone.
"""

from __future__ import annotations

import glob
import os
import pickle
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learner.checkpoint.atomic import sync_folder
from learner.checkpoint.file import write_checkpoint
from learner.checkpoint.plain import is_in_shards
from learner.errors import LearnerError
from learner.interrogate.layers import inside
from learner.ranks.job import Job


class ShardsError(LearnerError):
    """A folder of shards cannot be written or read; all processes raise it together."""


SUFFIX = ".shards"  # of a folder
_MARK = "in shards"  # the key of what stands for a tensor
_MAY_NAME = {
    "torch": {"Size"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


def is_model_in_shards(model: nn.Module) -> bool:
    """Tell whether a model is in shards."""
    return any(is_in_shards(p) for p in model.parameters())


def is_whole_folder(folder: Path) -> bool:
    """Tell whether a folder was written to its end, as far as can be seen without reading it."""
    return (folder / ".metadata").is_file()


def write_shards(state: Mapping[str, Any], folder: Path, job: Job) -> dict[str, Any]:
    """Write what is in shards; return the state with its name in the place of each. All processes call this together.

    Args:
        state: of a learner whose model is in shards.
        folder: where to, the same for all processes; it must not be there.
        job: the processes.

    Raises:
        ShardsError: on all processes, if it cannot be written.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    tensors: dict[str, Tensor] = {}
    apart = _set_apart(state, "", tensors, {})
    part = folder.with_name(f"{folder.name}.tmp")
    problem = f"`{folder}` cannot be written"
    _require(job.from_first(lambda: _cleared(part), at="the beginning of a folder of shards"), problem)
    with _explained(problem):
        save(tensors, checkpoint_id=part)
    _require(job.from_first(lambda: _published(part, folder), at="the end of a folder of shards"), problem)
    return {**apart, "shards": folder.name}


def write_file_and_shards(path: str | os.PathLike[str], state: Mapping[str, Any], job: Job) -> None:
    """Write a state to a file, and what is in shards to a folder beside it; all processes call this together.

    What the file had before is there until the new one is whole, and so is its folder.

    Raises:
        TypeError: naming the place of what is not plain data.
        LearnerError: on all processes, if it cannot be written.
    """
    path = Path(path).expanduser().resolve()
    token = job.from_first(lambda: secrets.token_hex(4), at="the name of a folder of shards")
    folder = path.with_name(f"{path.name}-{token}{SUFFIX}")
    apart = write_shards(state, folder, job)
    job.from_first(lambda: _replace(path, apart, folder), at="a file beside a folder of shards")


def _replace(path: Path, state: dict[str, Any], folder: Path) -> None:
    write_checkpoint(path, state)
    for former in path.parent.glob(f"{glob.escape(path.name)}-{'[0-9a-f]' * 8}{SUFFIX}"):
        if former != folder and not former.is_symlink():
            shutil.rmtree(former)


def read_shards(state: Mapping[str, Any], beside: Path, model: nn.Module, job: Job) -> dict[str, Any]:
    """Return a state with its tensors, read from the folder that it names; of one that names none, those it has.

    Args:
        state: from a file.
        beside: the file.
        model: that it is for; if it is in shards, so are the tensors that are like its parameters.
        job: the processes, which all call this together.

    Raises:
        ShardsError: on all processes, if the folder is not there, not whole, or not what torch writes.
    """
    if "shards" not in state:
        return _cut(state, model) if is_model_in_shards(model) else dict(state)
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_loader import load

    beside = beside.expanduser().resolve()
    folder = beside.parent / Path(state["shards"]).name  # no path in a file is followed
    for rank, problem in enumerate(job.gather(_problem_of(folder), at="the beginning of reading shards")):
        if problem:
            raise ShardsError(f"`{folder}`, of `{beside.name}`, cannot be read by rank {rank}: it {problem}.")
    tensors: dict[str, Tensor] = {}
    rest = {name: value for name, value in state.items() if name != "shards"}
    whole: dict[str, Any] = _put_together(rest, tensors, _maker(model))
    with _explained(f"`{folder}` cannot be read"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        load(tensors, checkpoint_id=folder, no_dist=not dist.is_initialized())
    return whole


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Return the weights of a model in shards, whole and on the CPU, in the first process; all call this together."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _set_apart(value: Any, name: str, tensors: dict[str, Tensor], names: dict[int, str]) -> Any:
    """Return a nest with what stands for a tensor in the place of each that is in shards; add it to `tensors`."""
    if is_in_shards(value):
        known = names.setdefault(id(value), name)
        tensors[known] = value.detach()
        return {_MARK: [known, tuple(value.shape), str(value.dtype).removeprefix("torch.")]}
    if isinstance(value, Mapping):
        return {key: _set_apart(item, f"{name}[{key!r}]", tensors, names) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_set_apart(item, f"{name}[{i}]", tensors, names) for i, item in enumerate(value))
    return value


def _put_together(value: Any, tensors: dict[str, Tensor], make: Callable[[Any, Any], Tensor]) -> Any:
    """Return a nest with empty tensors in their places; add them to `tensors`, by name."""
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            name, shape, dtype = value[_MARK]
            return tensors.setdefault(name, make(shape, getattr(torch, dtype)))
        return {key: _put_together(item, tensors, make) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_put_together(item, tensors, make) for item in value)
    return value


def _cut(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return a state that has whole tensors with those in shards that belong to a parameter that is.

    That is by its name, in a mapping of weights, averages or gradients; in an optimizer by its number.
    """
    like = {name: p for name, p in inside(model).named_parameters() if is_in_shards(p)}
    cut: dict[str, Any] = _cut_by_name(dict(state), like)
    if (optimizer := cut.get("optimizer")) is not None:
        names = [name for group in optimizer["groups"] for name in group]
        of_each = {
            i: {key: _cut_one(value, like.get(names[i])) for key, value in values.items()}
            for i, values in optimizer["state"]["state"].items()
        }
        cut["optimizer"] = {**optimizer, "state": {**optimizer["state"], "state": of_each}}
    return cut


def _cut_by_name(value: Any, like: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _cut_by_name(_cut_one(item, like.get(key)), like) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cut_by_name(item, like) for item in value)
    return value


def _cut_one(value: Any, like: Any) -> Any:
    """Return this process's part of a tensor that all of them have, if it is like a parameter in shards."""
    if like is None or not isinstance(value, Tensor) or is_in_shards(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _maker(model: nn.Module) -> Callable[[Any, Any], Tensor]:
    """Return what makes an empty tensor: in shards as the parameters of a model are, or whole."""
    like: Any = next(filter(is_in_shards, model.parameters()), None)
    if like is None:
        return lambda shape, dtype: torch.empty(shape, dtype=dtype)
    from torch.distributed.tensor import Replicate, empty

    def make(shape: Any, dtype: Any) -> Tensor:
        placements = like.placements if shape else [Replicate()] * like.device_mesh.ndim
        return empty(*shape, dtype=dtype, device_mesh=like.device_mesh, placements=placements)

    return make


def _cleared(part: Path) -> str | None:
    """Make an empty folder, without what an interrupted writing has left; say what went wrong, or None."""
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
    except OSError as error:
        return str(error)
    return None


def _published(part: Path, folder: Path) -> str | None:
    """Give a folder its name; say what went wrong, or None."""
    try:
        part.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        return str(error)
    return None


def _require(reason: str | None, problem: str) -> None:
    if reason is not None:
        raise ShardsError(f"{problem}: {reason}")


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Make what goes wrong in torch one error, with its reason.

    Raises:
        ShardsError: for any error.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:  # of all processes; no Exception
        reason = next(iter(error.failures.values()))[0]
        raise ShardsError(f"{problem}: {type(reason).__name__}: {reason}") from error
    except Exception as error:
        raise ShardsError(f"{problem}: {type(error).__name__}: {error}") from error


def _problem_of(folder: Path) -> str | None:
    """Say why a folder cannot be read, or None."""
    try:
        with (folder / ".metadata").open("rb") as file:
            metadata = _CheckedUnpickler(file).load()
        paths = {str(info.relative_path) for info in metadata.storage_data.values()}
    except FileNotFoundError:
        return "is not there as a whole (no `.metadata`); it has to be where all processes can read it"
    except Exception as error:
        return f"has a `.metadata` that cannot be read: {type(error).__name__}: {error}"
    if outside := [path for path in paths if Path(path).name != path]:
        return f"names the file {outside[0]!r}, which is not in it"
    return None


class _CheckedUnpickler(pickle.Unpickler):
    """Reads what torch writes of where its tensors are, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _MAY_NAME.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
