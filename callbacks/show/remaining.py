"""How long a fit will still take, from how long its batches have taken."""

from __future__ import annotations

from collections.abc import Mapping


class Remaining:
    """Estimate what is left of a fit: by loader, since a batch that trains takes longer than one that does not.

    The times are of a clock that the caller reads, in seconds.

    Args:
        lengths: batches of each loader, in the order of the passes; None where that is not known.
        n_epochs: rounds of the whole fit; None where that is not known.

    Example:
        >>> remaining = Remaining({"train": 4, "valid": 2}, n_epochs=2)
        >>> remaining.begin("train", 0, now=0.0)
        >>> remaining.left(epoch=0, i=2, now=20.0)  # 10 s a batch: 2 + 2 of this epoch, 6 of the next one
        100.0
    """

    def __init__(self, lengths: Mapping[str, int | None], n_epochs: int | None) -> None:
        self._lengths, self._n_epochs = dict(lengths), n_epochs
        self._seconds = dict.fromkeys(lengths, 0.0)
        self._n_batches = dict.fromkeys(lengths, 0)
        self._loader, self._first, self._start = "", 0, 0.0

    def begin(self, loader: str, i: int, now: float) -> None:
        """Note that a pass begins, or goes on, at batch `i`."""
        self._loader, self._first, self._start = loader, i, now

    def end(self, i: int, now: float) -> None:
        """Note that the pass ends before batch `i`."""
        if self._loader in self._lengths:
            self._seconds[self._loader] += now - self._start
            self._n_batches[self._loader] += i - self._first

    def left(self, epoch: int, i: int, now: float) -> float | None:
        """Return how long it will still take when `i` batches of this pass are done [s]; None if that is not known."""
        seconds = self._seconds.get(self._loader, 0.0) + now - self._start
        n_batches = self._n_batches.get(self._loader, 0) + i - self._first
        is_known = self._loader in self._lengths and None not in self._lengths.values()
        if self._n_epochs is None or not is_known or n_batches <= 0:
            return None
        lengths = {name: length or 0 for name, length in self._lengths.items()}
        pace = {name: self._pace(name) or seconds / n_batches for name in lengths}
        pace[self._loader] = seconds / n_batches
        later = list(lengths)[list(lengths).index(self._loader) + 1 :]
        this_round = (lengths[self._loader] - i) * pace[self._loader] + sum(lengths[n] * pace[n] for n in later)
        a_round = sum(lengths[name] * pace[name] for name in lengths)
        return max(0.0, this_round + (self._n_epochs - epoch - 1) * a_round)

    def _pace(self, loader: str) -> float | None:
        """Return how long a batch of a loader has taken in earlier passes [s]."""
        n = self._n_batches[loader]
        return self._seconds[loader] / n if n else None


def in_words(seconds: float) -> str:
    """Write a duration as `0:41` or `1:02:03`.

    Example:
        >>> in_words(41.4), in_words(3723)
        ('0:41', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
