"""Short messages between processes, beside the gradients: a word at a time, and what goes with it."""

from __future__ import annotations

import pickle
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import torch
import torch.distributed as dist

from learner.errors import LearnerError

_N_CHARACTERS = 600  # of a text that all processes show each other


class Talk:
    """What a few processes say to each other, on the CPU, in a process group of its own.

    So nothing here waits for an accelerator, or comes between what moves gradients. Everything begins with a word: one
    number from each process, of which all hear the largest, and where each of them is. A process that is elsewhere is
    so found out, in place of waiting for what never comes.

    Args:
        timeout: how long to wait for the others [s].
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._word = torch.zeros(4, dtype=torch.int64)
        self._places: dict[str, int] = {}

    def word(self, code: int, at: str, size: int = 0) -> tuple[int, int, bool]:
        """Say a number; return the largest that was said, the largest size, and whether all are at one place.

        Args:
            code: at least 0.
            at: where this process is, in words.
            size: of the message that follows [bytes].
        """
        place = self._places.get(at)
        if place is None:
            digest = blake2b(at.encode(), digest_size=7).digest()
            place = self._places[at] = int.from_bytes(digest, "little")
        word = self._word
        word[0], word[1], word[2], word[3] = code, place, -place, size
        dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self._group)
        largest, highest, lowest, longest = word.tolist()
        return largest, longest, highest == -lowest

    def all_of(self, message: bytes, size: int) -> list[bytes]:
        """Return the messages of all, in order of ranks; none is longer than `size` [bytes]."""
        mine = torch.zeros(size + 8, dtype=torch.uint8)
        _write(mine, message)
        others = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(others, mine, group=self._group)
        return [_read(one) for one in others]

    def of_first(self, message: bytes, size: int) -> bytes:
        """Return the message of the first; it is `size` long [bytes]."""
        data = (
            torch.frombuffer(bytearray(message), dtype=torch.uint8) if message else torch.empty(size, dtype=torch.uint8)
        )
        dist.broadcast(data, src=0, group=self._group)
        return data.numpy().tobytes()

    def texts(self, mine: str) -> list[str]:
        """Return what each has to say for people, in order of ranks, the first few hundred characters of it."""
        data = mine.encode(errors="replace")[:_N_CHARACTERS]
        return [text.decode(errors="ignore") for text in self.all_of(data, _N_CHARACTERS)]


def _write(block: torch.Tensor, message: bytes) -> None:
    block[:8] = torch.frombuffer(bytearray(len(message).to_bytes(8, "little")), dtype=torch.uint8)
    if message:
        block[8 : 8 + len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)


def _read(block: torch.Tensor) -> bytes:
    data = block.numpy().tobytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def packed(value: Any) -> bytes:
    """Return a value as bytes, for a process of the same training.

    Raises:
        LearnerError: if it cannot be sent.
    """
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise LearnerError(
            f"what processes exchange must be something that pickle takes, got {type(value).__name__}: {error}."
        ) from error


def unpacked(message: bytes) -> Any:
    """Return what was packed, by a process of the same training."""
    return pickle.loads(message)
