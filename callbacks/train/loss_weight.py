"""Say what the loss of a batch is a mean over: tokens rather than samples."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from learner import Callback, Learner, LearnerError
from learner.data.batch import describe
from learner.loop.weight import batch_weight


class LossWeightCallback(Callback):
    """Set `learn.weight`: how many things the loss of a batch is a mean over, where these are not its samples.

    A mean over tokens of batches with padding has to be averaged by tokens. Whatever averages losses goes by this
    weight: the running loss, what is logged for the batch, `AccumulateCallback`; so several small batches give the
    gradient and the loss of one large batch. `n_samples` and per-sample records go on counting samples. The weight may
    be a tensor; nothing waits for it.

    A batch that weighs nothing does not count, also if its loss is NaN, as that of `cross_entropy` is where all targets
    are ignored. An optimizer step whose batches all weigh nothing is made with a gradient of 0; that is said at the end
    of the pass.

    Args:
        ignore_index: the target that the loss leaves out, as in `torch.nn.functional.cross_entropy`; each other element
            of `learn.yb` counts 1.
        weight_of: called as `weight_of(learn)` when the loss is there, returns the weight: a number or a tensor with
            one element. For models that shift their labels:
            `weight_of=lambda learn: (learn.batch["labels"][:, 1:] != -100).sum()`.

    Reads: yb, or what `weight_of` reads.
    Writes: weight.

    Raises:
        TypeError, ValueError: if not exactly one of the two is given, or it is of the wrong kind.
        LearnerError: in a batch, if the target is no tensor, a weight is not a number of at least 0, or somebody else
            has set one; at the end of a pass, if no batch of it weighs anything.

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html, "mean" with `ignore_index`

    Example:
        >>> from torch import nn
        >>> from torch.nn.functional import cross_entropy
        >>> x, y = torch.ones(4, 1), torch.tensor([0, -100, -100, 1])
        >>> data = [(x[:3], y[:3]), (x[3:], y[3:])]  # one label each
        >>> model = nn.Linear(1, 2)
        >>> learn = Learner(model, {"valid": data}, cross_entropy, cbs=LossWeightCallback(ignore_index=-100))
        >>> abs(learn.validate()["loss"] - cross_entropy(model(x), y).item()) < 1e-6
        True
    """

    order = -50
    state = ("_in_step", "_n_empty")

    def __init__(
        self, ignore_index: int | None = None, weight_of: Callable[[Learner], Tensor | float] | None = None
    ) -> None:
        if (ignore_index is None) == (weight_of is None):
            raise ValueError(
                f"`LossWeightCallback` must have one of `ignore_index` and `weight_of`, got "
                f"{'neither' if weight_of is None else 'both'}; do `ignore_index=-100` for a loss with padding."
            )
        if ignore_index is not None:
            try:
                ignore_index = operator.index(ignore_index)
            except TypeError:
                raise TypeError(f"`ignore_index` must be a whole number, got {ignore_index!r}; do -100.") from None
        elif not callable(weight_of):
            raise TypeError(f"`weight_of` must be called as weight_of(learn), got {weight_of!r}; pass a function.")
        self.ignore_index = ignore_index
        self.weight_of = weight_of
        self._in_step: Tensor | float = 0.0  # weight of the batches of the coming step
        self._n_empty: Tensor | int = 0  # steps of this pass that had none

    def before_epoch(self, learn: Learner) -> None:
        """Count the empty steps of a training pass."""
        if learn.training:
            self._in_step = self._n_empty = 0

    def after_loss(self, learn: Learner) -> None:
        """Set the weight of the batch."""
        if learn.weight is not None:
            raise LearnerError(
                f"`learn.weight` must be set in one place, got {describe(learn.weight)} before {type(self).__name__}; "
                f"leave that or this callback out."
            )
        learn.weight = self._count_labels(learn.yb) if self.weight_of is None else self.weight_of(learn)
        weight = batch_weight(learn)
        if learn.training:
            self._in_step = self._in_step + weight

    def after_step(self, learn: Learner) -> None:
        """Note a step without weight."""
        self._n_empty = self._n_empty + (torch.as_tensor(self._in_step) == 0)
        self._in_step = 0

    def cleanup_epoch(self, learn: Learner) -> None:
        """Say how many steps of the pass had no target; here, for the last step may be made in `after_epoch`."""
        if learn.training and learn.ended_by is None and (n_empty := int(self._n_empty)):
            warnings.warn(
                f"{n_empty} optimizer steps of the pass over {learn.dl_name!r} had batches of weight 0 alone, so they "
                f"were made with a gradient of 0; momentum and weight decay still move the weights. Do such batches "
                f"belong into the data?",
                RuntimeWarning,
                stacklevel=2,
            )

    def _count_labels(self, yb: object) -> Tensor:
        if not isinstance(yb, Tensor):
            raise LearnerError(
                f"`learn.yb` must be a tensor for its labels to be counted by `ignore_index`, got {describe(yb)}; "
                f"use `weight_of=` in its place."
            )
        return torch.ne(yb, self.ignore_index).sum()  # type: ignore[arg-type]  # there is one where labels count
