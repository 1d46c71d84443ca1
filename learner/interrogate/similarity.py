"""How alike two sets of features of the same samples are: `cosine` for each sample, `cka` as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from learner.data.batch import describe
from learner.interrogate.features import as_pair, in_double, unit_rows


def cosine(a: Any, b: Any) -> Tensor:
    """Return the cosine between the two vectors of each sample [-1 to 1].

    It is 0 where one of the two is all zeros, and NaN where one is not finite.

    Args:
        a: features, a tensor, an array or nested lists. All axes after the first are flattened.
        b: features of the same samples, and as many.

    Shapes:
        (N, D...) and (N, D...) to (N,).

    Raises:
        TypeError: if one does not hold real numbers.
        ValueError: if they differ in length or width.

    Example:
        >>> cosine([[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [-1.0, 1.0]])
        tensor([1., 0.], dtype=torch.float64)
    """
    a, b = as_pair(a, b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"`a` and `b` must be equally wide, got {a.shape[1]} and {b.shape[1]} numbers a sample; `cka` compares "
            f"different widths."
        )
    return (unit_rows(a) * unit_rows(b)).sum(1).clamp(-1, 1)


class CKA(NamedTuple):
    """Linear CKA, and what it would be without any correspondence.

    Attributes:
        value: the centred kernel alignment [0-1].
        shuffled: its mean when the samples of one side are shuffled [0-1]. Few samples or wide features make it large,
            and `value` says nothing where it is near it.
    """

    value: float
    shuffled: float

    def __repr__(self) -> str:
        return f"CKA(value={self.value:.4f}, shuffled={self.shuffled:.4f})"


@overload
def cka(a: Any, b: Any) -> CKA: ...


@overload
def cka(a: Iterable[tuple[Any, Any]]) -> CKA: ...


def cka(a: Any, b: Any = None) -> CKA:
    """Measure how alike two sets of features are, up to rotation and scale: exact linear CKA, with its baseline.

    The features may differ in width. `cka(a, b)` takes all samples at once; `cka(batches)`, of pairs `(a, b)`, goes
    over them once, keeps sums alone, and comes to the same. Its memory grows with the square of the widths, so pool
    wide features first.

    The baseline is the mean over all the ways to shuffle the samples of one side, which is known in closed form, so
    nothing is drawn. Computed in float64.

    Args:
        a: features of shape (N, D...), a tensor, an array or nested lists; or an iterable of pairs `(a, b)`.
        b: features of the same samples, of shape (N, E...); left out for an iterable of pairs.

    Raises:
        TypeError: if one does not hold real numbers, or if `a` alone is no iterable of pairs.
        ValueError: if they differ in length, are not finite, hold fewer than 2 samples or no variation, for then CKA
            is not defined; or if the widths change from batch to batch.

    Source:
        Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", section 3. The baseline:
        Kazi-Aoual et al. 1995, "Refined approximations to permutation tests for multivariate inference", the
        expectation of the RV coefficient, which linear CKA is.

    Example:
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> cka(x, 3 * x.flip(1))
        CKA(value=1.0000, shuffled=0.0196)
        >>> cka((part, 3 * part.flip(1)) for part in x.split(64))
        CKA(value=1.0000, shuffled=0.0196)
    """
    if b is None:
        sums = _Sums()
        for i, pair in enumerate(_checked_batches(a)):
            where = f" of batch {i}"
            sums.add(*as_pair(*_checked_pair(pair, i), where, is_finite=True), where)
        return sums.cka()
    a, b = as_pair(a, b, is_finite=True)
    n, width = len(a), a.shape[1] + b.shape[1]
    if 2 * n * n < width * width:
        return _cka_of_few(in_double(a), in_double(b))
    sums = _Sums()
    sums.add(a, b)
    return sums.cka()


def _checked_batches(batches: Any) -> Iterable[Any]:
    if hasattr(batches, "shape") or not isinstance(batches, Iterable):
        raise TypeError(f"`cka` must be given `a` and `b`, or an iterable of pairs, got {describe(batches)} alone.")
    return batches


def _checked_pair(pair: Any, i: int) -> tuple[Any, Any]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError(f"a batch for `cka` must be a pair (a, b), got {describe(pair)} as batch {i}.")
    return pair[0], pair[1]


class _Sums:
    """Means and centred products of two sets of features side by side, brought together batch by batch."""

    def __init__(self) -> None:
        self.n = 0
        self.widths = (0, 0)
        self.mean = self.origin = torch.zeros(0)
        self.products = torch.zeros(0, 0)

    def add(self, x: Tensor, y: Tensor, where: str = "") -> None:
        both = torch.cat([in_double(x), in_double(y)], 1)
        if not self.n:
            self.widths = (x.shape[1], y.shape[1])
            self.origin = both[0]  # counted from it, what never varies is exactly 0
            self.mean, self.products = both.new_zeros(both.shape[1]), both.new_zeros(both.shape[1], both.shape[1])
        elif self.widths != (x.shape[1], y.shape[1]):
            raise ValueError(
                f"`a` and `b`{where} must be as wide as before, {self.widths}, got {(x.shape[1], y.shape[1])}."
            )
        both = both.to(self.origin.device) - self.origin
        mean = both.mean(0)
        n, move = self.n + len(both), mean - self.mean
        both -= mean
        # Products around the mean of all: plain sums of squares would lose the digits that the mean takes.
        self.products += both.T @ both + move[:, None] * move * (self.n * len(both) / n)
        self.mean += move * (len(both) / n)
        self.n = n

    def cka(self) -> CKA:
        width = self.widths[0]
        xx, xy, yy = self.products[:width, :width], self.products[:width, width:], self.products[width:, width:]
        return _cka(self.n, xy.square().sum(), xx, yy)


def _cka_of_few(x: Tensor, y: Tensor) -> CKA:
    """Return CKA by products of samples, (N, N), where they are fewer than those of features."""
    x, y = x - x[0], y - y[0]
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return _cka(len(x), (k * l).sum(), k, l)


def _cka(n: int, alignment: Tensor, xx: Tensor, yy: Tensor) -> CKA:
    """Return CKA from the products of each side, of samples or of features: traces and norms are the same."""
    if n < 2:
        raise ValueError(f"`cka` must be given at least 2 samples, got {n}.")
    traces = [float(products.trace()) for products in (xx, yy)]
    for name, trace in zip("ab", traces, strict=True):
        if trace == 0:
            raise ValueError(f"`{name}` must vary, got the same features for all {n} samples; CKA is not defined then.")
    norms = float(xx.norm()) * float(yy.norm())
    return CKA(min(float(alignment) / norms, 1.0), traces[0] * traces[1] / (n - 1) / norms)
