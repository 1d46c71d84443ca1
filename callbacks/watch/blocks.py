"""Buffers for numbers that callbacks record a row at a time: plain lists of tensors of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST = 64  # rows of the first block; each one after it has twice as many as the one before


def next_row(
    blocks: list[Tensor], n_rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the first free row, in a new block if there is none; its values are undefined.

    Small tensors for each record would fragment memory: they would lie between the tensors of the training, where the C
    library cannot use the gaps again, so that each recorded output of 64 kB would cost 50 kB.

    Args:
        blocks: the blocks so far, an empty list at first; a block may be added. A sandbox puts lists back.
        n_rows: how many rows are taken.
        shape: of a row; like `dtype` and `device`, used only for a new block.
        dtype: of a new block.
        device: of a new block.

    Example:
        >>> blocks = []
        >>> for i in range(65):
        ...     _ = next_row(blocks, i, (2,), torch.float32, torch.device("cpu")).fill_(i)
        >>> [tuple(block.shape) for block in blocks], read(blocks, (2,))[:65, 1].mean()
        ([(64, 2), (128, 2)], tensor(32.))
    """
    k = (n_rows // FIRST + 1).bit_length() - 1
    if k == len(blocks):
        blocks.append(torch.empty(FIRST << k, *shape, dtype=dtype, device=device))
    elif blocks[k].device != device:  # put back from a checkpoint
        blocks[k] = blocks[k].to(device)
    return blocks[k][n_rows + FIRST - (FIRST << k)]


def taken(blocks: list[Tensor], n_rows: int) -> list[Tensor]:
    """Return the rows that are taken, block by block, for a checkpoint."""
    return [block[: n_rows + FIRST - len(block)] for block in blocks]


def room_after(rows: list[Tensor]) -> list[Tensor]:
    """Return blocks that begin with the rows that `taken` returned, and have room for more.

    Example:
        >>> blocks = []
        >>> _ = next_row(blocks, 0, (2,), torch.float32, torch.device("cpu")).fill_(7)
        >>> again = room_after(taken(blocks, 1))
        >>> [tuple(block.shape) for block in again], again[0][0]
        ([(64, 2)], tensor([7., 7.]))
    """
    blocks = [part.new_empty(FIRST << k, *part.shape[1:]) for k, part in enumerate(rows)]
    for block, part in zip(blocks, rows, strict=True):
        block[: len(part)] = part
    return blocks


def joined(parts: list[list[Tensor]]) -> list[Tensor]:
    """Return the rows that `taken` returned several times, one after the other, as it would return all of them.

    Example:
        >>> blocks = joined([[torch.zeros(40, 2)], [torch.ones(30, 2)]])
        >>> [tuple(block.shape) for block in blocks], blocks[0].sum()
        ([(64, 2), (6, 2)], tensor(48.))
    """
    blocks = [block for part in parts for block in part]
    if not blocks:
        return []
    rows, first = torch.cat(blocks), 0
    found: list[Tensor] = []
    while first < len(rows):
        found.append(rows[first : first + (FIRST << len(found))])
        first += len(found[-1])
    return found


def read(blocks: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Return all rows on the CPU, also those that are still free; waits for the device."""
    return torch.cat([block.cpu() for block in blocks]) if blocks else torch.empty(0, *shape)
