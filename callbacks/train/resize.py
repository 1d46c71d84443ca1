"""Train on small pictures first, and on whole ones at the end."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from callbacks.train.batch_transform import inputs_of, with_parts
from learner import Callback, Learner, LearnerError
from learner.data.batch import describe


class ProgressiveResize(Callback):
    """Shrink the pictures of training batches, less and less, and leave them whole for the last part of a fit.

    Height and width grow in a straight line from `start` times their own at the beginning to their own at `until`, and
    stay so: weights and statistics of batch norm are those of whole pictures in the end. Validation always sees these.
    The size follows from the position, so a fit that goes on from a checkpoint goes on with it: a step is counted in
    batches where the length of the loader is known, in optimizer steps in `fit(steps=n)`, else in epochs.

    The model must take any size, as one with adaptive pooling does. Each size makes a compiled model compile again:
    sizes are rounded to multiples of `multiple`, and a large one means few sizes.

    Args:
        start: of height and width at the beginning, as a share of their own (0-1].
        until: share of the fit by which they are whole (0-1].
        multiple: to what sizes are rounded [pixels]; those of whole pictures are not.

    Shapes:
        pictures: all inputs of four axes, (n_samples, channels, height, width), of floating point.

    Reads: batch, predictor, training, epoch, n_epochs, i, n_batches, n_steps, first_step, steps.
    Writes: batch.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        LearnerError: in a batch, if it holds no such pictures, or if the target is as large as they are (a mask, a
            picture), for it would not fit any more.

    Source:
        Howard, Training Imagenet in 3 hours for 25 minutes (2018), https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from callbacks import LambdaCallback
        >>> from learner import Loaders
        >>> dls = Loaders.from_arrays(train=(torch.randn(8, 3, 32, 32), torch.arange(8) % 2), batch_size=4)
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        >>> sizes = []
        >>> look = LambdaCallback(before_batch=lambda learn: sizes.append(learn.batch[0].shape[-1]))
        >>> learn = Learner(model, dls, nn.functional.cross_entropy, cbs=[ProgressiveResize(), look])
        >>> learn.fit(5)
        >>> sizes
        [16, 16, 16, 24, 24, 24, 32, 32, 32, 32]
    """

    order = -95

    def __init__(self, start: float = 0.5, until: float = 0.8, multiple: int = 8) -> None:
        self.start, self.until = _checked_share("start", start), _checked_share("until", until)
        try:
            self.multiple = operator.index(multiple)
        except TypeError:
            raise TypeError(f"`multiple` must be a whole number of pixels, got {multiple!r}; do 8.") from None
        if self.multiple < 1 or isinstance(multiple, bool):
            raise ValueError(f"`multiple` must be at least 1 pixel, got {multiple!r}; do 8.")

    def before_batch(self, learn: Learner) -> None:
        """Shrink the pictures, if it is not time for whole ones."""
        if not learn.training:
            return
        share = self.start + (1 - self.start) * _progress(learn) / self.until
        if share >= 1:
            return
        xb, yb, _ = learn.predictor.split(learn.batch)
        pictures = {name: x for name, x in self._inputs(learn.batch, xb) if isinstance(x, Tensor) and x.ndim == 4}
        if not pictures or not all(x.is_floating_point() for x in pictures.values()):
            raise LearnerError(
                f"a batch must hold pictures of floating point, (n_samples, channels, height, width), for "
                f"ProgressiveResize to shrink them, got {describe(learn.batch)}; make floats of them before it."
            )
        sizes = {tuple(x.shape[-2:]) for x in pictures.values()}
        if isinstance(yb, Tensor) and yb.ndim > 2 and tuple(yb.shape[-2:]) in sizes:
            raise LearnerError(
                f"a target must not be a picture for ProgressiveResize to shrink the input alone, got "
                f"{describe(learn.batch)}; leave it out, or shrink both by a BatchTransformCallback."
            )
        learn.batch = with_parts(learn.batch, {name: self._shrunk(x, share) for name, x in pictures.items()})

    def _inputs(self, batch: Any, xb: Any) -> Any:
        return inputs_of(batch, xb, type(self).__name__).items()

    def _shrunk(self, x: Tensor, share: float) -> Tensor:
        height, width = (self._rounded(side, share) for side in x.shape[-2:])
        if (height, width) == tuple(x.shape[-2:]):
            return x
        return interpolate(x, (height, width), mode="bilinear", antialias=True)

    def _rounded(self, side: int, share: float) -> int:
        return min(side, max(1, round(side * share / self.multiple)) * self.multiple)


def _progress(learn: Learner) -> float:
    """Return how much of the fit is done [0-1]; an epoch of unknown length counts as done when it begins."""
    if learn.steps is not None:
        return (learn.n_steps - learn.first_step) / learn.steps
    of_epoch = learn.i / learn.n_batches if learn.n_batches else 1.0
    return (learn.epoch + of_epoch) / max(1, learn.n_epochs or 1)


def _checked_share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number above 0 and at most 1, got {value!r}; do 0.5.")
    if not 0 < float(value) <= 1:
        raise ValueError(f"`{name}` must be a number above 0 and at most 1, got {value!r}; do 0.5.")
    return float(value)
