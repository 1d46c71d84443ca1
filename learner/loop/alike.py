"""What processes that train together have to have in common, as plain data to be compared."""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch.utils.data import DataLoader

from learner.data.wrapper import length_of
from learner.loop.types import Learner


def what_must_be_alike(learn: Learner) -> dict[str, dict[str, Any]]:
    """Return what a fit depends on that is not moved between processes, by section and name."""
    tensors = chain(learn.model.named_parameters(), learn.model.named_buffers())
    return {
        "callbacks": {f"number {i}": type(cb).__name__ for i, cb in enumerate(learn.cbs)},
        "model": {
            "its class": type(learn.model).__qualname__,
            **{f"`{name}`": f"{tuple(t.shape)} {t.dtype}" for name, t in tensors},
        },
        "loaders": {name: _described(dl) for name, dl in learn.dls.items()},
        "optimizer": {} if learn.opt is None else {"its class": type(learn.opt).__name__},
        "fit": {"n_epochs": learn.n_epochs, "steps": learn.steps, "lr": learn._lr_of_fit, "n_steps": learn.n_steps},
    }


def _described(dl: Any) -> str:
    of = f" of {length_of(dl.dataset)} samples" if isinstance(dl, DataLoader) else ""
    return f"{type(dl).__name__}{of} with {length_of(dl)} batches"
