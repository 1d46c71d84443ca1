"""A training loop by hand with all that a step may have, each by a switch; and a learner with the same parts.

    parts = Parts(precision="fp16", accumulate=2, max_norm=0.5, is_cosine=True)
    done, learn = by_hand(parts, n_epochs=2), learner(parts)
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), done.model.parameters()))

Plain torch: nothing of the packages is used in the loop. Inputs are sequences of unequal numbers of labels, in batches
of unequal size.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
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
    optimizer: str = "momentum"


@dataclass
class Training:
    """What a loop by hand has come to."""

    model: nn.Module
    scale: float = 1.0
    n_steps: int = 0
    n_skipped: int = 0
    n_scheduled: int = 0
    means: list[float] = field(default_factory=list)  # of the loss, for each epoch


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


def by_hand(parts: Parts, n_epochs: int) -> Training:
    """Train in a plain loop."""
    batches, model = make_batches(), make_model()
    parameters = list(model.parameters())
    opt: Any = OPTIMIZERS[parts.optimizer](parameters, lr=LR)
    window = parts.accumulate or 1
    scheduler = CosineAnnealingLR(opt, T_max=n_epochs * math.ceil(len(batches) / window))
    scaler = torch.amp.GradScaler("cpu", init_scale=parts.init_scale, enabled=parts.precision == "fp16")
    done = Training(model)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", DTYPES[parts.precision]) if parts.precision else nullcontext():
            preds = model(x)
        return token_loss(preds.float(), y)

    for _ in range(n_epochs):
        total, weights = 0.0, 0.0
        n_in_window, window_weight, unit = 0, 0.0, 1.0
        for i, (x, y) in enumerate(batches):
            loss = loss_of(x, y)
            weight = (y != -100).sum().double() if parts.is_weighted else float(len(x))
            total, weights = total + loss.item() * float(weight), weights + float(weight)
            if parts.accumulate:
                unit = unit if n_in_window else weight
                window_weight, n_in_window = window_weight + weight / unit, n_in_window + 1
                loss = loss * (weight / unit)
            scaler.scale(loss).backward()
            if n_in_window < window and parts.accumulate and i + 1 < len(batches):
                continue
            if parts.accumulate:
                for p in parameters:
                    p.grad.div_(window_weight)
                n_in_window, window_weight = 0, 0.0
            scaler.unscale_(opt)
            if parts.rho is not None:
                go_to_the_worst_point_and_back(parameters, parts.rho, opt, lambda x=x, y=y: loss_of(x, y).backward())
            if parts.max_norm is not None:
                nn.utils.clip_grad_norm_(parameters, parts.max_norm)
            scale = scaler.get_scale()
            scaler.step(opt)
            scaler.update()
            if scaler.get_scale() < scale:
                done.n_skipped += 1
            else:
                done.n_steps += 1
                if parts.is_cosine:
                    scheduler.step()
            opt.zero_grad()
        done.means.append(total / weights)
    done.scale, done.n_scheduled = scaler.get_scale(), scheduler.last_epoch
    return done


def go_to_the_worst_point_and_back(parameters: list[nn.Parameter], rho: float, opt: Any, backward: Any) -> None:
    """Replace the gradients by those at the worst point nearby."""
    weights = [p.detach().clone() for p in parameters]
    length = torch.stack([p.grad.norm() for p in parameters]).norm()
    with torch.no_grad():
        for p in parameters:
            p.add_(p.grad * (rho / (length + 1e-12)))
    opt.zero_grad()
    backward()
    with torch.no_grad():
        for p, weight in zip(parameters, weights, strict=True):
            p.copy_(weight)


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
    return {type(cb).__name__: cb for cb in cbs}


def _scale_of(parts: Parts) -> dict[str, float]:
    return {"init_scale": parts.init_scale} if parts.precision == "fp16" else {}


def learner(parts: Parts, cbs: Any = None) -> Learner:
    """Return a learner that has not trained, with callbacks for the parts or these in their place."""
    cbs = list(callbacks_of(parts).values()) if cbs is None else cbs
    return Learner(make_model(), {"train": make_batches()}, token_loss, LR, OPTIMIZERS[parts.optimizer], cbs)
