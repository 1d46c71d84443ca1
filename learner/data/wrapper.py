"""What a loader is to those that take its place: a length, attributes, and batches from any place on."""

from __future__ import annotations

from typing import Any, Protocol

# What others read off a loader: its generators, and what to say of it when it gives nothing.
_OF_THE_LOADER = ("dataset", "batch_size", "drop_last", "sampler", "batch_sampler", "generator")


def length_of(loader: Any) -> int | None:
    """Return the number of batches of a loader, or None where it has no length.

    Example:
        >>> length_of([1, 2]), length_of(iter([1, 2]))
        (2, None)
    """
    try:
        return len(loader)
    except TypeError:
        return None


class Source(Protocol):
    """What gives the batches of a loader from any place on, as `learner.data.position.ResumableLoader` does."""

    def at(self, epoch: int, start: int = 0) -> Any:
        """Return an iterable over the rest of a pass, from its batch `start` on."""


class LoaderWrapper:
    """What takes a loader's place, with all of its batches. Attributes that are not this object's own are the loader's.

    Args:
        loader: any iterable of batches.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)


class LoaderPart:
    """Some batches of a loader, in its place. Who reads data and generators off it finds the loader's.

    Args:
        loader: any iterable of batches.
        n: how many of its batches.
    """

    def __init__(self, loader: Any, n: int) -> None:
        self.loader, self.n = loader, n

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_LOADER:
            return getattr(self.loader, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.loader).__name__}, {self.n})"
