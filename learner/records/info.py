"""`run.json`: what ran, as plain data that a person can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from learner.checkpoint.atomic import replacing
from learner.data.batch import describe
from learner.errors import LearnerError
from learner.records.files import opened, writing

INFO = "run.json"
FORMAT = 1
_NEEDED = {"name": object, "created": str, "status": str, "config": dict, "tables": object}


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write what ran; what was written before is there until this is, as a whole."""
    path, text = folder / INFO, json.dumps(info, indent=2, allow_nan=False)
    with writing(path), replacing(path) as file:
        file.write(f"{text}\n".encode())


def read_info(folder: Path) -> dict[str, Any]:
    """Return what ran.

    Raises:
        LearnerError: if the file is not there, or not as it was written.
    """
    try:
        with opened(folder / INFO) as file:
            info = json.load(file)
    except FileNotFoundError:
        what = "is not there"
    except OSError as error:
        what = f"cannot be read ({error})"
    except (ValueError, RecursionError) as error:
        what = f"is cut short or damaged ({error})"
    else:
        if _is_info(info):
            return info  # type: ignore[no-any-return]
        what = f"is none of format {FORMAT}"
    raise LearnerError(
        f"`path` must be the folder of a run, got {str(folder)!r} whose {INFO} {what}. Its samples may still be read: "
        f"`Samples(sorted(path.glob('samples/*.parquet')))`."
    )


def _is_info(info: Any) -> bool:
    """Tell whether something is what ran, with what `Run.list` relies on; a report says what else of it is odd."""
    return (
        isinstance(info, dict)
        and info.get("format") == FORMAT
        and all(name in info and isinstance(info[name], kind) for name, kind in _NEEDED.items())
    )


def plain(name: str, value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, paths as strings, NaN and the infinities as "nan", "inf", "-inf".

    Args:
        name: what the value is, for the error.
        value: numbers, strings, None, and lists and mappings of them.

    Raises:
        TypeError: if something of it has no such form.

    Example:
        >>> plain("config", {"lr": np.float64(0.1), "betas": (0.9, 0.99)})
        {'lr': 0.1, 'betas': [0.9, 0.99]}
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"`{name}` must have strings as keys, got {odd[0]!r}; do `str(key)`.")
        return {key: plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    raise TypeError(
        f"`{name}` must be a number, a string, None, or a list or mapping of them, got {describe(value)}; do "
        f"`str(...)`."
    )
