"""A model as a program for other programs: `.pt2` by `torch.export`, `.onnx` by `torch.onnx`, checked by running it."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from learner.checkpoint.atomic import replacing
from learner.data.batch import describe
from learner.data.loaders import Loaders
from learner.data.moving import tensors_of, to_device
from learner.errors import LearnerError
from learner.inference.reference import loader_like, reference_of
from learner.interrogate.layers import inside
from learner.loop.state import pass_mode
from learner.loop.types import Learner

_ONNX = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = 2**31 - 1  # of a file of protobuf
_TOLERANCE = 1e-3  # relative; kernels differ in the order in which they add

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def export_program(learn: Learner, path: str | os.PathLike[str]) -> None:
    """Write a model as a program, as `Learner.export` says."""
    target = Path(path).expanduser()
    is_onnx = target.suffix == ".onnx"
    if is_onnx and (missing := [name for name in _ONNX if find_spec(name) is None]):
        raise ImportError(
            f'`{missing[0]}` must be installed to export `.onnx`; do `pip install "learner-callbacks[onnx]"`.'
        )
    model = inside(learn.model)
    with pass_mode(model, None, training=False):
        args, kwargs = _example(learn, 2)
        with _traced(model):
            program = _exported(model, args, kwargs)
            data, run = _as_onnx(program) if is_onnx else _as_pt2(program)
        args, kwargs = _example(learn, 3)  # another number, that it takes any
        _check(run(*args, **kwargs), model(*args, **kwargs), target.suffix)
    if not learn.job.is_first:
        return
    try:
        with replacing(target.resolve()) as file:
            file.write(data)
    except (OSError, RuntimeError) as error:  # the second is for a loop of links
        raise LearnerError(f"`path` must be a file that can be written, got {str(path)!r}: {error}.") from error


def _example(learn: Learner, n: int) -> Inputs:
    """Return what goes into the model for so many samples: by position and by name."""
    learn.dls = Loaders.of(learn.dls)
    name = loader_like(learn.dls)
    reference = reference_of(learn, name)
    if reference is None:
        raise LearnerError(
            f"a loader must show what a sample looks like for a model to be exported, got a stream as {name!r}; put "
            f"one batch into a list, `learn.dls.{name} = [batch]`."
        )
    tensors = (*learn.model.parameters(), *learn.model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    predictor = copy.copy(learn.predictor)
    predictor.begin_pass(learn.model, takes_target=False, is_training=False)
    xb, _, _ = predictor.split(to_device(reference.collate([reference.sample] * n), device), needs_target=False)
    inputs = xb if isinstance(xb, tuple | dict) else (xb,)
    if not all(isinstance(part, Tensor) for part in (inputs.values() if isinstance(inputs, dict) else inputs)):
        raise LearnerError(f"what goes into a model must be tensors for it to be exported, got {describe(xb)}.")
    return ((), inputs) if isinstance(inputs, dict) else (inputs, {})


@contextmanager
def _traced(model: nn.Module) -> Iterator[None]:
    """Say of a model that cannot be exported that it is the model; torch's warnings are about its own insides."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LearnerError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise LearnerError(
            f"the model must be one that `torch.export` can follow, got {type(model).__name__}: {reason}; the whole "
            f"error is above. Write what depends on values with `torch.where`, or export the weights alone, as '.pt'."
        ) from error


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """Return the program of a model for any number of samples, and for other sizes where the model takes them."""
    batch = Dim("batch")

    def axes(tensor: Tensor) -> dict[int, Any]:
        return {axis: Dim.AUTO if axis else batch for axis in range(tensor.ndim)}

    shapes: Any = {name: axes(tensor) for name, tensor in kwargs.items()} or tuple(map(axes, args))
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def _as_pt2(program: ExportedProgram) -> tuple[bytes, Callable[..., Any]]:
    """Return the bytes of a program, and what runs them."""
    file = BytesIO()
    torch.export.save(program, file)
    return file.getvalue(), torch.export.load(BytesIO(file.getvalue())).module()


def _as_onnx(program: ExportedProgram) -> tuple[bytes, Callable[..., Any]]:
    """Return the bytes of a program for ONNX, and what runs them."""
    import onnxruntime

    made: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    if made.model_proto.ByteSize() > _MOST_BYTES:
        raise LearnerError("a model must be smaller than 2 GiB to be one file of ONNX; export it as '.pt2'.")
    data = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]  # some are renamed, and in the order of the program

    def run(*args: Tensor, **kwargs: Tensor) -> list[Tensor]:
        values = [*args, *(kwargs[name] for name in program.graph_signature.user_inputs if name in kwargs)]
        feed = {name: value.detach().cpu().numpy() for name, value in zip(names, values, strict=True)}
        return [torch.as_tensor(output) for output in session.run(None, feed)]

    return data, run


def _check(found: Any, expected: Any, suffix: str) -> None:
    """Refuse a program that gives something else than the model.

    Raises:
        LearnerError: if it does.
    """
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=False))
    is_alike = len(tensors_of(found)) == len(tensors_of(expected)) and all(
        torch.allclose(one.cpu(), other.cpu(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True) for one, other in pairs
    )
    if not is_alike:
        raise LearnerError(
            f"an exported program must give what the model gives, got {describe(found)} for {describe(expected)}, or "
            f"other values; nothing was written. Export it in another form than {suffix!r}."
        )
