"""A training loop by hand with all that a step may have, each by a switch; and a learner with the same parts.

    parts = Parts(precision="fp16", accumulate=2, max_norm=0.5, is_cosine=True)
    done, learn = by_hand(parts, n_epochs=2), learner(parts)
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), done.model.parameters()))

Plain torch: nothing of the packages is used in the loop. Inputs are sequences of unequal numbers of labels, in batches
of unequal size.
"""

from __future__ import annotations

import operator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    EMACallback,
    LossWeightCallback,
    MixedPrecisionCallback,
    SAMCallback,
    SchedulerCallback,
)
from learner import Learner

LR = 0.1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
OPTIMIZERS = {"momentum": partial(torch.optim.SGD, momentum=0.9), "AdamW": partial(torch.optim.AdamW, eps=1e-4)}


class Parts(NamedTuple):
    """What a training has; None and False for what it has not."""

    precision: str | None = None
    init_scale: float = 2.0**16
    accumulate: int | None = None
    max_norm: float | None = None
    is_cosine: bool = False
    is_weighted: bool = False  # by labels; else by samples
    rho: float | None = None  # of sharpness-aware minimization
    decay: float | None = None  # of a moving average of the weights
    optimizer: str = "momentum"


def make_batches() -> list[tuple[Tensor, Tensor]]:
    """Return seven batches of sequences of five, padded by labels of -100."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 5, 4, generator=generator)
    y = torch.randint(0, 3, (24, 5), generator=generator)
    y[torch.arange(5) >= torch.randint(1, 6, (24, 1), generator=generator)] = -100
    return list(zip(x.split([4, 4, 4, 3, 4, 3, 2]), y.split([4, 4, 4, 3, 4, 3, 2]), strict=True))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def token_loss(preds: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(preds.flatten(0, 1), target.flatten())


class Training:
    """A loop by hand, and what it has come to; plain torch alone.

    Attributes:
        means: of the loss, for each epoch.
        scale: of the loss.
        average: of the weights.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.model = parts, make_model()
        self.parameters = list(self.model.parameters())
        self.opt: Any = OPTIMIZERS[parts.optimizer](self.parameters, lr=LR)
        is_scaled = parts.precision == "fp16"
        self.scaler = torch.amp.GradScaler("cpu", init_scale=parts.init_scale, enabled=is_scaled)
        self.scheduler: Any = None
        self.n_steps, self.n_skipped, self.means = 0, 0, list[float]()
        self.average = [p.detach().clone() for p in self.parameters]

    def run(self, n_epochs: int) -> None:
        """Train for so many epochs."""
        batches, n = make_batches(), self.parts.accumulate or 1
        windows = [batches[i : i + n] for i in range(0, len(batches), n)]
        if self.parts.is_cosine:
            self.scheduler = CosineAnnealingLR(self.opt, T_max=n_epochs * len(windows))
        for _ in range(n_epochs):
            losses, weights = list[float](), list[float]()
            for window in windows:
                self.add_gradients(window, losses, weights)
                self.make_step(window)
            self.means.append(sum(map(operator.mul, losses, weights)) / sum(weights))

    def loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Predict and take the loss."""
        precision = self.parts.precision
        with torch.autocast("cpu", DTYPES[precision]) if precision else nullcontext():
            preds = self.model(x)
        return token_loss(preds.float(), y)

    def add_gradients(self, window: list[tuple[Tensor, Tensor]], losses: list[float], weights: list[float]) -> None:
        """Make the gradients of a window, of unscaled losses a mean; put down the losses, and how much each weighs."""
        first: Any = None
        sum_of_weights = 0.0
        for x, y in window:
            loss, weight = self.loss_of(x, y), float(len(x))
            if self.parts.is_weighted:
                weight = (y != -100).sum().double()
            losses.append(loss.item())
            weights.append(float(weight))
            if self.parts.accumulate:
                first = weight if first is None else first
                sum_of_weights = sum_of_weights + weight / first
                loss = loss * (weight / first)
            self.scaler.scale(loss).backward()
        if self.parts.accumulate:
            for p in self.parameters:
                p.grad.div_(sum_of_weights)
        self.scaler.unscale_(self.opt)

    def make_step(self, window: list[tuple[Tensor, Tensor]]) -> None:
        """Make the step, unless gradients are infinite or NaN."""
        if self.parts.rho is not None:
            self.take_gradients_nearby(self.parts.rho, *window[-1])
        if self.parts.max_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.parts.max_norm)
        scale = self.scale
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad()
        if self.scale < scale:
            self.n_skipped += 1
            return
        self.n_steps += 1
        if self.parts.decay is not None:
            kept = min(self.parts.decay, (1 + self.n_steps) / (10 + self.n_steps))
            for mean, p in zip(self.average, self.parameters, strict=True):
                mean.lerp_(p.detach(), 1 - kept)
        if self.scheduler is not None:
            self.scheduler.step()

    def take_gradients_nearby(self, rho: float, x: Tensor, y: Tensor) -> None:
        """Replace the gradients by those at the worst point nearby."""
        weights = [p.detach().clone() for p in self.parameters]
        length = torch.stack([p.grad.norm() for p in self.parameters]).norm()
        with torch.no_grad():
            for p in self.parameters:
                p.add_(p.grad * (rho / (length + 1e-12)))
        self.opt.zero_grad()
        self.loss_of(x, y).backward()
        with torch.no_grad():
            for p, weight in zip(self.parameters, weights, strict=True):
                p.copy_(weight)

    @property
    def scale(self) -> float:
        return self.scaler.get_scale()


def by_hand(parts: Parts, n_epochs: int) -> Training:
    """Train in a loop by hand."""
    training = Training(parts)
    training.run(n_epochs)
    return training


def callbacks_of(parts: Parts) -> dict[str, Any]:
    """Return the callbacks that stand for the parts, by the names of their classes."""
    cbs: list[Any] = []
    if parts.precision:
        cbs.append(MixedPrecisionCallback(parts.precision, **_scale_of(parts)))
    if parts.accumulate:
        cbs.append(AccumulateCallback(parts.accumulate))
    if parts.max_norm is not None:
        cbs.append(ClipGradientCallback(parts.max_norm))
    if parts.is_cosine:
        cbs.append(SchedulerCallback(CosineAnnealingLR))
    if parts.is_weighted:
        cbs.append(LossWeightCallback(ignore_index=-100))
    if parts.rho is not None:
        cbs.append(SAMCallback(parts.rho))
    if parts.decay is not None:
        cbs.append(EMACallback(parts.decay))
    return {type(cb).__name__: cb for cb in cbs}


def _scale_of(parts: Parts) -> dict[str, float]:
    return {"init_scale": parts.init_scale} if parts.precision == "fp16" else {}


def learner(parts: Parts, cbs: Any = None) -> Learner:
    """Return a learner that has not trained, with callbacks for the parts or these in their place."""
    cbs = list(callbacks_of(parts).values()) if cbs is None else cbs
    return Learner(make_model(), {"train": make_batches()}, token_loss, LR, OPTIMIZERS[parts.optimizer], cbs)
