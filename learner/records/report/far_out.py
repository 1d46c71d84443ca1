"""Batches whose loss is far out: which they are, which samples they held, and the line of code that goes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastcore.xml import FT, Code, Li, P, Ul

from learner.data.loaders import role_of
from learner.records.report.groups import Group

MOST, MOST_SAMPLES = 10, 12
_NEIGHBOURS = 50  # to either side, of which a loss is far out
_FAR = 8.0  # times their spread


def far_out(info: Mapping[str, Any], groups: Sequence[Group]) -> list[FT]:
    """Return a list of the batches whose loss was farthest out, the first ones first; none if no loss was.

    The losses are those that a `CheckpointCallback` has left beside its checkpoints.

    Args:
        info: of the run: `checkpoints` is their folder, if there were some.
        groups: the samples on record, among which those of a training pass say which a batch held.
    """
    folder = info.get("checkpoints")
    file = Path(str(folder)) / "losses.f64"
    if not folder or not file.is_file():
        return []
    losses = np.fromfile(file, "<f8")
    numbers = far_out_of(losses)
    names = {name: n for name, n in info["learner"]["n_batches"].items() if role_of(name) == "train"}
    n_batches = next(iter(names.values()), None) if len(names) == 1 else None
    lines = [_line(n, losses[n], n_batches, str(folder), groups) for n in numbers[:MOST]]
    more = [P(f"{len(numbers) - MOST:,} more are not listed.", cls="quiet")] if len(numbers) > MOST else []
    return [Ul(*lines), *more] if lines else []


def far_out_of(losses: np.ndarray) -> list[int]:
    """Return the batches whose loss is far above those of its neighbours, or is not finite, the farthest first.

    Far is more than 8 times as far as the neighbours are from their median, by the median of these distances.

    Example:
        >>> losses = np.r_[np.linspace(3, 1, 40), 9, np.linspace(1, 0.5, 40), np.nan]
        >>> far_out_of(losses)
        [81, 40]
    """
    found = {int(n): np.inf for n in np.flatnonzero(~np.isfinite(losses) & ~np.isneginf(losses))}
    for n in _candidates(losses):  # all by themselves would take minutes for a long training
        near = losses[max(0, n - _NEIGHBOURS) : n + _NEIGHBOURS + 1]
        near = near[np.isfinite(near)]
        middle = np.median(near)
        spread = max(1.4826 * np.median(np.abs(near - middle)), 1e-6 * abs(middle))  # the first is normal deviation
        if len(near) > 10 and losses[n] - middle > _FAR * spread:
            found[n] = (losses[n] - middle) / spread
    return sorted(found, key=lambda n: -found[n])


def _candidates(losses: np.ndarray) -> list[int]:
    """Return the batches whose loss is above most of its block, the largest thousand by how far."""
    finite = np.where(np.isfinite(losses), losses, np.nan)
    padding = np.full(-len(losses) % _NEIGHBOURS, np.nan)
    blocks = np.concatenate([finite, padding]).reshape(-1, _NEIGHBOURS)
    is_full = ~np.isnan(blocks).all(axis=1)
    above = np.full(blocks.shape, -np.inf)
    middle = np.nanmedian(blocks[is_full], axis=1, keepdims=True)
    spread = np.nanmedian(np.abs(blocks[is_full] - middle), axis=1, keepdims=True) + 1e-6 * np.abs(middle) + 1e-300
    above[is_full] = np.nan_to_num((blocks[is_full] - middle) / spread, nan=-np.inf)
    above = above.ravel()[: len(losses)]
    order = np.argsort(-above)[:1000]
    return [int(n) for n in order if above[n] > _FAR / 4]


def _line(n: int, loss: float, n_batches: int | None, folder: str, groups: Sequence[Group]) -> FT:
    """Say what is known of a batch."""
    if n_batches is None:
        return Li(f"training batch {n}: loss {loss:.4g}")
    epoch, i = divmod(n, n_batches)
    ids = _samples_of(epoch, i, n_batches, groups)
    listed = ", ".join(map(str, ids[:MOST_SAMPLES])) + (", …" if len(ids) > MOST_SAMPLES else "")
    held = f"; samples {listed}" if ids else ""
    return Li(
        f"batch {i} of epoch {epoch}: loss {loss:.4g}{held}. To stand before it: ",
        Code(f"with learn.rewind({folder!r}, epoch={epoch}, i={i}) as then: ..."),
    )


def _samples_of(epoch: int, i: int, n_batches: int, groups: Sequence[Group]) -> list[int]:
    """Return the samples of a batch, where those of each batch of its epoch are on record with a step of their own."""
    for group in groups:
        columns = group.samples.scalars
        if {"epoch", "step", "example_id"} <= set(columns) and any(map(_is_train, group.samples.splits)):
            of_epoch = group.samples.where(epoch=epoch)
            steps = of_epoch.numpy("step")
            each = np.unique(steps)
            if len(each) == n_batches:
                return [int(one) for one in of_epoch.numpy("example_id")[steps == each[i]]]
    return []


def _is_train(split: Any) -> bool:
    return str(split).startswith("train")
