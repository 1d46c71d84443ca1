"""Train on mixtures of two samples: MixUp and CutMix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from callbacks.train.batch_transform import PositionTransform, inputs_of, with_parts
from learner import Learner, LearnerError
from learner.data.batch import describe
from learner.data.moving import mapped
from learner.loop.closure import first_forward_kept, forget_loss


class MixUp(PositionTransform):
    """Train on weighted means of two inputs each, and on the loss for both targets, weighted likewise.

    `x = λ x_i + (1 - λ) x_j` and `loss = λ loss(y_i) + (1 - λ) loss(y_j)`: with the second target in `learn.yb` the
    loss is taken once more, so any loss and any target will do, and a callback or subclass may own it. One λ is drawn
    for a batch, from Beta(alpha, alpha), and of λ and 1 - λ the larger one counts, which is the same in distribution.
    Batches of training passes are mixed, as `BatchTransformCallback` changes them: on the device, by random numbers
    that follow from the position. Nothing waits for the device.

    `learn.is_mixed` is True in such a batch. `learn.yb` stays the whole target of the first sample, so metrics of a
    training pass say how often the model names the larger part. What records samples has none to record there:
    `CollectCallback` refuses it with what to do. Several of these callbacks mix one after the other.

    Args:
        alpha: above 0: of small values one sample outweighs the other nearly always; 1 is the uniform distribution.
        seed: another one gives other mixtures.

    Shapes:
        each input: (n_samples, ...), of floating point.
        each tensor of the target: (n_samples, ...).

    Reads: batch, predictor, loss_f, training, epoch, dl_name, i, history.
    Writes: batch, is_mixed, loss, and yb while the loss is taken again.

    Raises:
        TypeError, ValueError: if `alpha` is not a finite number above 0.
        LearnerError: at the start of a fit, if the model makes the loss itself (`loss_f=None`), for it is made before
            it could be mixed; in a batch, if inputs are whole numbers, or inputs or targets are not tensors with all
            samples along their first axis.

    Source:
        Zhang et al., mixup: Beyond Empirical Risk Minimization (2018), equation 2

    Example:
        >>> from learner import Loaders
        >>> x = torch.randn(64, 4)
        >>> y = (x.sum(dim=1) > 0).long()
        >>> dls = Loaders.from_arrays(train=(x, y), batch_size=16)
        >>> learn = Learner(torch.nn.Linear(4, 2), dls, torch.nn.functional.cross_entropy, cbs=MixUp(0.4))
        >>> learn.fit(20)
        >>> learn.validate("train")["loss"] < 0.4
        True
    """

    def __init__(self, alpha: float = 0.4, seed: int = 0) -> None:
        super().__init__(("train",), seed)
        self.alpha = _checked_alpha(alpha)
        self._partners: Tensor | None = None  # for each sample of the batch the number of the one it is mixed with
        self._share: Tensor | None = None  # λ

    def before_fit(self, learn: Learner) -> None:
        """Refuse a model that makes its own loss."""
        if learn.loss_f is None:
            raise LearnerError(
                f"`loss_f` must be given for {type(self).__name__} to take it for both targets of a mixture, got None: "
                f"a model that makes the loss itself does so for one; pass a `loss_f`, or leave the callback out."
            )

    def transform(self, learn: Learner, generator: torch.Generator) -> Any:
        """Return the batch with mixed inputs; remember what is mixed with what."""
        batch = learn.batch
        xb, yb, n_samples = learn.predictor.split(batch)
        if yb is None:
            raise LearnerError(
                f"a batch must have a target for {type(self).__name__} to mix it, got {describe(batch)}."
            )
        inputs = inputs_of(batch, xb, type(self).__name__)
        self._check_inputs(inputs, n_samples, batch)
        partners = torch.randperm(n_samples, generator=generator, device=generator.device)  # type: ignore[arg-type]  # a number where all inputs have as many
        _permuted(yb, partners)  # says now what cannot be mixed
        mixed, self._share = self._mix(inputs, partners, generator)
        self._partners, learn.is_mixed = partners, True
        return with_parts(batch, mixed)

    def around_get_loss(self, learn: Learner, action: Callable[[], None]) -> None:
        """Take the loss for the second target as well; weight and logged values are those of the first."""
        action()
        if not learn.is_mixed or self._partners is None or self._share is None:
            return
        first, target = learn.loss, learn.yb
        with first_forward_kept(learn):
            forget_loss(learn)
            learn.yb = _permuted(target, self._partners)
            try:
                action()
            finally:
                learn.yb = target
            second = learn.loss
        learn.loss = torch.lerp(second, first, self._share.to(first.dtype))

    def cleanup_fit(self, learn: Learner) -> None:
        """Hold nothing of the last batch."""
        self._partners = self._share = None

    def _mix(
        self, inputs: Mapping[Any, Tensor], partners: Tensor, generator: torch.Generator
    ) -> tuple[dict[Any, Tensor], Tensor]:
        """Return mixed inputs, and the share of the first sample in them."""
        share = _draw_beta(self.alpha, generator)
        share = torch.maximum(share, 1 - share)
        return {name: torch.lerp(x[partners], x, share.to(x.dtype)) for name, x in inputs.items()}, share

    def _check_inputs(self, inputs: Mapping[Any, Any], n_samples: int | None, batch: Any) -> None:
        """Refuse what cannot be mixed."""
        for name, x in inputs.items():
            if not isinstance(x, Tensor) or not x.ndim or x.shape[0] != n_samples:
                raise LearnerError(
                    f"inputs must be tensors with all samples along their first axis for {type(self).__name__} to mix "
                    f"them, got {describe(x)} at {name!r} of {describe(batch)}; pad them to one length in `collate_fn`."
                )
            if not self._takes(x):
                raise LearnerError(f"{self._requirement}, got {describe(x)} at {name!r} of {describe(batch)}.")

    _requirement = (
        "inputs must be of floating point for MixUp to mix them; make floats of pictures in the dataset or by a "
        "BatchTransformCallback before it, and leave it out for numbers of words"
    )

    def _takes(self, x: Tensor) -> bool:
        return x.is_floating_point()


class CutMix(MixUp):
    """Train on pictures with a box of another picture in them, and on the loss for both targets by their areas.

    As `MixUp`, but a box of height `H √(1 - λ)` and width `W √(1 - λ)` is taken over from the second picture. Its
    centre lies anywhere in the picture, the same for the whole batch, so it may be cut off by the border: λ is then
    what is left of the first picture, counted in pixels. λ may be below one half.

    Args:
        alpha: above 0, of Beta(alpha, alpha), from which λ is drawn.
        seed: another one gives other boxes.

    Shapes:
        each input: (n_samples, ..., H, W), of any type; one H and W for all of them.

    Raises:
        LearnerError: as `MixUp`; in a batch, if an input has no height and width, or they differ between inputs.

    Source:
        Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features (2019),
        equations 1 and 2

    Example:
        >>> from learner import Loaders
        >>> x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 2
        >>> dls = Loaders.from_arrays(train=(x, y), batch_size=16)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> learn = Learner(model, dls, torch.nn.functional.cross_entropy, cbs=CutMix())
        >>> learn.fit(1)
        >>> learn.n_steps
        2
    """

    def __init__(self, alpha: float = 1.0, seed: int = 0) -> None:
        super().__init__(alpha, seed)

    def _mix(
        self, inputs: Mapping[Any, Tensor], partners: Tensor, generator: torch.Generator
    ) -> tuple[dict[Any, Tensor], Tensor]:
        *_, height, width = next(iter(inputs.values())).shape
        device = generator.device
        # A mask in place of slices: their bounds would be numbers on the host, which waits for them.
        half_side = (1 - _draw_beta(self.alpha, generator)).sqrt() / 2
        centre = torch.rand(2, generator=generator, device=device)
        rows = ((torch.arange(height, device=device) + 0.5) / height - centre[0]).abs() < half_side
        columns = ((torch.arange(width, device=device) + 0.5) / width - centre[1]).abs() < half_side
        box = rows[:, None] & columns
        return {name: torch.where(box, x[partners], x) for name, x in inputs.items()}, 1 - box.float().mean()

    def _check_inputs(self, inputs: Mapping[Any, Any], n_samples: int | None, batch: Any) -> None:
        super()._check_inputs(inputs, n_samples, batch)
        sizes = sorted({tuple(x.shape[-2:]) for x in inputs.values()})
        if len(sizes) > 1:
            raise LearnerError(
                f"inputs must have one height and width for CutMix to cut one box out of all, got {sizes} in "
                f"{describe(batch)}; take MixUp, or resize them."
            )

    _requirement = "inputs must be pictures, (n_samples, ..., height, width), for CutMix to cut boxes out of them"

    def _takes(self, x: Tensor) -> bool:
        return x.ndim > 2


def _permuted(target: Any, partners: Tensor) -> Any:
    """Return a target with the samples in another order, part by part."""
    if isinstance(target, Tensor):
        if target.ndim and target.shape[0] == partners.shape[0]:
            return target[partners]
    elif isinstance(target, tuple | list | Mapping) and target:
        return mapped(target, _permuted, partners)
    raise LearnerError(
        f"targets must be tensors with all samples along their first axis to be mixed, got {describe(target)} in a "
        f"batch of {partners.shape[0]}; leave MixUp and CutMix out, or make one tensor of the targets in `collate_fn`."
    )


def _draw_beta(alpha: float, generator: torch.Generator) -> Tensor:
    """Draw a number from Beta(alpha, alpha), as a tensor on the generator's device.

    It is drawn on the host, the same for each kind of device, some of which have no gamma distribution. So few bytes
    are sent without waiting for the device.
    """
    is_host = generator.device.type == "cpu"
    host = generator if is_host else torch.Generator().manual_seed(generator.initial_seed())
    # The share of one of two gammas, in logarithms, since those of a small alpha are smaller than any float: a gamma of
    # `alpha` is one of `alpha + 1` times `u ** (1 / alpha)`. (`torch.distributions` takes no generator.)
    gammas = torch._standard_gamma(torch.full((2,), alpha + 1, dtype=torch.float64), generator=host)
    uniform = 1 - torch.rand(2, generator=host, dtype=torch.float64)  # above 0
    log_gammas = gammas.log() + uniform.log() / alpha
    share = torch.sigmoid(log_gammas[0] - log_gammas[1]).float()
    return share if is_host else share.to(generator.device, non_blocking=True)


def _checked_alpha(alpha: Any) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"`alpha` must be a number above 0, got {alpha!r}; do 0.4.")
    if not 0 < float(alpha) < math.inf:
        raise ValueError(
            f"`alpha` must be a finite number above 0, got {alpha!r}; leave the callback out to mix nothing."
        )
    return float(alpha)
