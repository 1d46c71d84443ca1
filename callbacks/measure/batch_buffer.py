"""Room for predictions and targets of several batches, to be evaluated at once."""

from __future__ import annotations

from torch import Tensor


class BatchBuffer:
    """Room for batches of one kind, to be evaluated as one.

    They are copied: a loader that fills one buffer again and again would change what waits. Into one place: small
    tensors that live on cost the allocator more than the copy.

    Args:
        preds, target: of a batch, for shapes and types.
        room: for so many batches.

    Attributes:
        n: batches that wait.

    Example:
        >>> import torch
        >>> buffer = BatchBuffer(torch.zeros(2, 3), torch.zeros(2), room=4)
        >>> for i in range(2):
        ...     buffer.add(torch.full((2, 3), i), torch.full((2,), i))
        >>> [tuple(part.shape) for part in (*buffer.rows(), *buffer.joined())]
        [(2, 2, 3), (2, 2), (4, 3), (4,)]
    """

    def __init__(self, preds: Tensor, target: Tensor, room: int) -> None:
        self.n = 0
        self._preds = preds.new_empty((room, *preds.shape))
        self._targets = target.new_empty((room, *target.shape))
        self._slots = list(zip(self._preds.unbind(), self._targets.unbind(), strict=True))

    def add(self, preds: Tensor, target: Tensor) -> None:
        """Copy a batch, of which there must be room for one more."""
        preds_slot, target_slot = self._slots[self.n]
        preds_slot.copy_(preds.detach())
        target_slot.copy_(target)
        self.n += 1

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return predictions and targets that wait, a row for each batch."""
        return self._preds[: self.n], self._targets[: self.n]

    def joined(self) -> tuple[Tensor, Tensor]:
        """Return predictions and targets that wait, as those of one batch."""
        preds, targets = self.rows()
        return preds.flatten(0, 1), targets.flatten(0, 1)
