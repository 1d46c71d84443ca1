"""What a learner counts comes back, and is a copy."""

import torch
from torch import nn

from learner import Learner
from learner.checkpoint.counters import counters, put_back_counters


def test_counters_come_back():
    data = {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}
    saved, other = (Learner(nn.Linear(1, 1), data, nn.functional.mse_loss) for _ in range(2))
    saved.fit(2)
    put_back_counters(other, counters(saved))
    assert (other.n_steps, other.n_samples, len(other.history)) == (2, 4, 2)
    assert other.metrics == saved.metrics
    assert other.metrics["train"] is not saved.metrics["train"]
