"""Save a batch with all that is needed to run it again, as data that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import platform
import reprlib
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import make_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from callbacks.watch.nan_cause import listed
from learner import Learner
from learner.checkpoint.atomic import replacing
from learner.data.batch import fields_of
from learner.data.moving import to_device
from learner.interrogate.layers import named_layers

_PLACE = ("epoch", "dl_name", "i", "role", "training", "batch_size")
_MARK = "__made_of__"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, without the names that wrappers add.

    Example:
        >>> list(weights_of(nn.DataParallel(nn.BatchNorm1d(2))))
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    weights = {}
    for layer, module in named_layers(model).items():
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            weights[f"{layer}.{name}".lstrip(".")] = tensor
    return weights


def batch_state(learn: Learner, xb: Any, rng: dict[str, Tensor]) -> dict[str, Any]:
    """Return all that is needed to run the batch again, as plain data.

    Args:
        learn: a learner within the batch, with the model as before the batch.
        xb: the model's input.
        rng: states of the random generators, by device.
    """
    lost: list[str] = []
    return {
        **{name: getattr(learn, name) for name in _PLACE},
        "batch": plain(learn.batch, "batch", []),
        "xb": plain(xb, "xb", lost),
        "yb": plain(learn.yb, "yb", lost),
        "lost": lost,
        "weights": plain(weights_of(learn.model), "", []),
        "modes": {name: module.training for name, module in named_layers(learn.model).items()},
        "rng": rng,
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }


def load_batch_state(learn: Learner, saved: dict[str, Any]) -> None:
    """Set a learner to the state before the batch of a file; the random generators are left alone.

    Raises:
        ValueError: if the parameters or buffers of its model have other names or shapes.
    """
    weights, old = weights_of(learn.model), saved["weights"]
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in old.items()}:
        same = {name for name in weights.keys() & old.keys() if weights[name].shape == old[name].shape}
        unlike = [name for name in {**weights, **old} if name not in same]
        raise ValueError(f"`learn.model` must be the model of the file, got one that differs in {listed(unlike)}.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(old[name])
    for name, module in named_layers(learn.model).items():
        module.training = saved["modes"].get(name, module.training)
    device = next((weight.device for weight in weights.values()), torch.device("cpu"))
    for name in ("batch", "xb", "yb"):
        setattr(learn, name, to_device(rebuilt(saved[name]), device))
    for name in _PLACE:
        setattr(learn, name, saved[name])


def plain(value: Any, name: str, lost: list[str]) -> Any:
    """Return nested containers as tuples, lists and dicts of tensors, numbers and strings; tensors are copied.

    Args:
        value: the containers. Named tuples, dataclasses and nested tensors become dicts that `rebuilt` turns back.
        name: the path of `value`, for `lost`.
        lost: a list to which the path of each part of another type is added; only a description of it is kept.

    Example:
        >>> lost = []
        >>> plain({"x": 1, "graph": slice(2)}, "batch", lost), lost
        ({'x': 1, 'graph': 'slice(None, 2, None)'}, ['batch.graph'])
    """
    if value is None:
        return None
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    for kind in (bool, int, float, str):  # and subclasses of them, such as numpy.float64
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {key: plain(item, f"{name}.{key}", lost) for key, item in value.items()}
    is_packed = isinstance(value, PackedSequence)
    fields = value._asdict() if is_packed else None if isinstance(value, Mapping) else fields_of(value)
    if fields is not None:
        kind_of = "packed sequence" if is_packed else "named tuple" if isinstance(value, tuple) else "dataclass"
        return {_MARK: [kind_of, type(value).__name__], **plain(dict(fields), name, lost)}
    if isinstance(value, tuple | list):
        items = [plain(item, f"{name}[{i}]", lost) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    lost.append(name)
    return reprlib.repr(value)


def _plain_tensor(value: Tensor) -> Any:
    """Return a copy on the CPU; of a view, without the rest of its storage."""
    value = value.detach()
    if value.is_nested:  # `torch.load(weights_only=True)` does not read its layout
        layout = "jagged" if value.layout is torch.jagged else "strided"
        return {_MARK: ["nested tensor", layout], "parts": [_plain_tensor(part) for part in value.unbind()]}
    if type(value) is not Tensor and value.layout is torch.strided:
        value = value.as_subclass(Tensor)
    return value.to("cpu", copy=True)


def rebuilt(value: Any) -> Any:
    """Undo `plain`: return the containers that it was given.

    Named tuples and dataclasses are of new classes that have the same name and fields, but no methods.

    Example:
        >>> from collections import namedtuple
        >>> Pair = namedtuple("Pair", "x y")
        >>> rebuilt(plain([Pair(1, 2)], "batch", []))
        [Pair(x=1, y=2)]
    """
    if isinstance(value, tuple | list):
        return type(value)(map(rebuilt, value))
    if not isinstance(value, dict):
        return value
    fields = {key: rebuilt(item) for key, item in value.items() if key != _MARK}
    if _MARK not in value:
        return fields
    kind, name = value[_MARK]
    if kind == "packed sequence":
        return PackedSequence(**fields)
    if kind == "nested tensor":
        return torch.nested.nested_tensor(fields["parts"], layout=torch.jagged if name == "jagged" else torch.strided)
    made: Any = namedtuple(name, fields) if kind == "named tuple" else make_dataclass(name, fields)
    return made(**fields)


def write(path: Path, data: Any) -> None:
    """Write a file; an older one stays until the new one is complete.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path.resolve()) as file:  # a link stays, and its target is replaced
        torch.save(data, file)
