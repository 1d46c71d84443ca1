"""Training on a part of the data: a few batches of a loader, the same ones in every pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from numbers import Integral, Real
from typing import Any

from learner.data.batch import describe
from learner.data.loaders import Loaders
from learner.data.wrapper import LoaderPart, length_of
from learner.errors import LearnerError


class BatchLimit(LoaderPart):
    """The first batches of a loader, the same ones in every pass, also if the loader shuffles and augments.

    The first pass fetches them all and keeps them in memory; it draws the random numbers that `n` batches of the loader
    draw, later passes draw none. If that fetching is cut short, the next pass fetches anew: nobody has seen a batch
    yet. Batches are copied when they are fetched and when they are given out, since a loader may use its memory again,
    and who takes a batch may change it in place. Workers of the loader end once the batches are there, unless it says
    `persistent_workers=True`.

    Args:
        loader: any iterable of batches; a stream that never ends, too.
        n: a whole number of batches, at least 1; or a float, the fraction of the loader's length, rounded down
            to whole batches, but at least one (0-1].

    Attributes:
        loader: as given.
        n: as a whole number [batches].
        is_kept_by_position: whether `keep` has fetched the batches, not a pass; None as long as there are none.

    Raises:
        TypeError: if `loader` is no iterable of batches, or `n` no number.
        ValueError: if `n` is out of range, or a fraction of a loader that has no length.
        LearnerError: in the first pass, if a batch cannot be copied.

    Example:
        >>> import torch
        >>> loader = torch.utils.data.DataLoader(range(100), batch_size=2, shuffle=True)
        >>> limit = BatchLimit(loader, 0.1)
        >>> len(limit), torch.equal(torch.cat(list(limit)), torch.cat(list(limit)))
        (5, True)
    """

    def __init__(self, loader: Iterable[Any], n: int | float) -> None:
        has_batches = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
        if not has_batches or isinstance(loader, str | type | Mapping):
            hint = "pass one of its loaders" if isinstance(loader, Mapping) else "pass a loader or a list of batches"
            raise TypeError(f"`loader` must be an iterable of batches, got {loader!r}; {hint}.")
        super().__init__(loader, _whole(n, "n", loader))
        self.is_kept_by_position: bool | None = None
        self._kept: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._kept is None:
            self._kept, self.is_kept_by_position = self._fetch(self.loader), False
        return map(copy.deepcopy, self._kept)

    def keep(self, batches: Iterable[Any]) -> None:
        """Fetch the batches from here, where there are none yet: the loader's own, in an order that is known."""
        if self._kept is None:
            self._kept, self.is_kept_by_position = self._fetch(batches), True

    def __len__(self) -> int:
        if self._kept is not None:
            return len(self._kept)
        if (length := length_of(self.loader)) is None:
            raise TypeError(f"the length of {self!r} is not known before its first pass.")
        return min(self.n, length)

    def _fetch(self, batches: Iterable[Any]) -> list[Any]:
        kept = []
        for batch in islice(batches, self.n):  # alone holds the loader's iterator, whose workers end with it
            try:
                kept.append(copy.deepcopy(batch))
            except Exception as error:
                raise LearnerError(
                    f"a batch must be one that can be copied to be kept, got {describe(batch)}: {error}; let the "
                    f"loader give plain data, and tensors without a gradient's graph (made under `torch.no_grad`)."
                ) from error
        return kept


def checked_limit(n: Any, name: str) -> int | float:
    """Return a number or fraction of batches, or say why it is none.

    Raises:
        TypeError, ValueError: if it is none, or out of range; calls it `name`.
    """
    must = f"`{name}` must be a whole number of batches, at least 1, or a fraction of them, above 0.0 and at most 1.0"
    if isinstance(n, bool) or not isinstance(n, Real):
        raise TypeError(f"{must}, got {n!r}; do 10 for ten batches, 0.5 for half of them.")
    limit = int(n) if isinstance(n, Integral) else float(n)
    if not (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1):
        raise ValueError(f"{must}, got {n!r}; do 10 for ten batches, 0.5 for half of them.")
    return limit


def limited(dls: Loaders, limits: Mapping[str, int | float], default: int | float = 1) -> Loaders:
    """Return the loaders, each as a new `BatchLimit`; nothing is fetched yet.

    Args:
        dls: the loaders.
        limits: a limit for each loader of that name, as `BatchLimit` takes it.
        default: the limit of the others.

    Raises:
        TypeError, ValueError: if a limit is none, is a fraction of a loader without length, or is for a loader that
            is not there.

    Example:
        >>> limited(Loaders({"train": range(8), "valid": range(4)}), {"train": 0.5})
        Loaders(train: 4 batches, valid: 1 batches)
    """
    for name in limits:
        if name not in dls:
            raise ValueError(
                f"`{name}` must be the name of a loader to be limited, and there is none of it, only "
                f"{', '.join(map(repr, dls))}; leave it out."
            )
    return Loaders({name: BatchLimit(dl, _whole(limits.get(name, default), name, dl)) for name, dl in dls.items()})


def describe_limits(dls: Loaders) -> str:
    """Say in one line which part of the data is seen, of loaders from `limited`.

    Example:
        >>> describe_limits(limited(Loaders({"train": range(25), "valid": range(7)}), {"train": 10}))
        'this fit sees only a part of the data: train 10 of 25 batches, valid 1 of 7'
    """
    parts, is_all = [], True
    for name in dls:
        limit: Any = dls[name]
        n, length = length_of(limit), length_of(limit.loader)
        parts.append(f"{name} {limit.n if n is None else n} of {'?' if length is None else length}")
        is_all = is_all and n is not None and n == length
    parts[0] += " batches"
    what = "the same batches in every epoch, which are all there are" if is_all else "only a part of the data"
    return f"this fit sees {what}: {', '.join(parts)}"


def _whole(n: Any, name: str, loader: Any) -> int:
    """Return a limit as a number of batches of a loader."""
    from fractions import Fraction  # takes longer to import than most of this package

    n = checked_limit(n, name)
    if isinstance(n, int):
        return n
    if (length := length_of(loader)) is None:
        raise ValueError(
            f"`{name}` must be a whole number of batches where the loader has no length, got the fraction {n}."
        )
    return max(1, int(Fraction(str(n)) * length))  # of the decimal that was written: 0.29 of 100 is 29
