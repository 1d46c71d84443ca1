"""What a person needs to know when a batch fails: where the loop was, and what is probably wrong."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from learner.data.batch import describe
from learner.loop.foreign import foreign_callbacks
from learner.loop.types import Learner
from learner.optim.several import parts_of

_MARK = "learner: "
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def annotate(error: BaseException, learn: Learner, place: str) -> None:
    """Add one note to an error: who raised it, where the loop was, the batch, and what may have caused it.

    The innermost place wins: an error that has its note already is left as it is.
    """
    if any(note.startswith(_MARK) for note in getattr(error, "__notes__", ())):
        return
    note = f"{_MARK}in {place}"
    try:
        lines = [f"{note}, {', '.join(_position(learn))}"]
        if _is_in_step(error, learn):
            lines.append("the optimizer had begun its step: the weights may be half new; go on from a checkpoint.")
        if isinstance(error, Exception):
            lines += [*_causes(learn), *foreign_callbacks(error, learn.cbs)]
        note = "\n".join(lines)
    except Exception:  # a batch that cannot be described must not hide the error it caused
        pass
    error.add_note(note)


def _position(learn: Learner) -> Iterator[str]:
    """Say where the loop is: epoch, loader, batch, shapes."""
    yield f"epoch {learn.history.state_dict()['start'] + learn.epoch}"  # as the history numbers it
    if learn.dl_name:
        yield f"loader {learn.dl_name!r}"
    if learn.is_in_batch:
        yield f"batch {learn.i}" + (f" of {learn.n_batches}" if learn.n_batches is not None else "")
        if learn.xb is None:
            yield f"batch = {describe(learn.batch)}"
        else:
            yield f"xb {describe(learn.xb)}, yb {describe(learn.yb)}"


def _is_in_step(error: BaseException, learn: Learner) -> bool:
    """Tell whether an error came out of the optimizer's step, whoever called it."""
    opts = [] if learn.opt is None else parts_of(learn.opt)
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "step")
    return any(frame.f_locals.get("self") is opt for frame in frames for opt in opts)


def _causes(learn: Learner) -> Iterator[str]:
    """Name what commonly makes torch fail here, if it is the case."""
    parameter = next(learn.model.parameters(), None)
    things = {"the model": parameter, "xb": learn.xb, "yb": learn.yb, "preds": learn.preds, "loss": learn.loss}
    tensors = {name: value for name, value in things.items() if isinstance(value, Tensor)}
    devices = {name: str(value.device) for name, value in tensors.items()}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        yield f"devices differ: {found}; add DeviceCallback() to `cbs`, it moves the model and the batches."
    is_one = learn.is_in_batch and learn.training and learn.preds is None and learn.batch_size == 1
    if is_one and any(isinstance(module, _BATCH_NORMS) for module in learn.model.modules()):
        yield "a batch of one sample has no variance for batch norm; `drop_last=True` in the loader leaves it out."
    if parameter is not None and isinstance(learn.xb, Tensor) and learn.preds is None:
        dtype = learn.xb.dtype
        if dtype == torch.float64 and parameter.dtype != dtype:
            yield f"dtypes differ: xb is {dtype}, the model {parameter.dtype}; use `.float()` in the data."
    if learn.loss_f is not None and isinstance(learn.preds, tuple | list) and learn.loss is None:
        yield (
            f"preds is {describe(learn.preds)}, and `loss_f` gets all of it; take the one that it expects, by "
            f"`learn.preds = learn.preds[0]` in `after_predict` of a callback."
        )
