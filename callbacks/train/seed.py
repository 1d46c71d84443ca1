"""Start every fit from the same random numbers."""

import operator
import random

import numpy as np
import torch

from learner import Callback, Learner
from learner.data.generators import generators_of

_N_SEEDS = 2**32  # what NumPy takes


class SeedCallback(Callback):
    """Seed Python, NumPy, torch on every device and the loaders' own generators when a fit begins.

    Two fits of equal models on equal data are then equal to the bit, shuffling and dropout included. A loader
    that was made with a `generator=` of its own is seeded as well: what the fit draws depends on the seed alone.
    The order of samples is thus the same in each fit, not in each epoch. Seed before you make a model if its
    first weights are to be equal too. A fit that goes on from a checkpoint has the generators as they were there,
    whatever the seed.

    What no seed reaches: generators hidden in a dataset, the workers of a loader with `persistent_workers` once
    they run, and kernels that are not deterministic (`torch.use_deterministic_algorithms` finds those).

    Args:
        seed: a whole number, [0, 2**32).

    Raises:
        TypeError, ValueError: if `seed` is no whole number, or out of range.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> def train():
        ...     model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
        ...     nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
        ...     dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=2)
        ...     Learner(model, dls, nn.functional.mse_loss, cbs=SeedCallback(42)).fit(2)
        ...     return model[0].weight.item()
        >>> train() == train()
        True
    """

    order = -200  # before anything draws a number

    def __init__(self, seed: int) -> None:
        try:
            self.seed = operator.index(seed)
        except TypeError:
            raise TypeError(f"`seed` must be a whole number, got {seed!r}.") from None
        if not 0 <= self.seed < _N_SEEDS:
            raise ValueError(f"`seed` must be at least 0 and below 2**32, got {seed}.")

    def before_fit(self, learn: Learner) -> None:
        """Seed all there is."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)  # all devices
        for loader in learn.dls.values():
            for generator in generators_of(loader):
                generator.manual_seed(self.seed)
