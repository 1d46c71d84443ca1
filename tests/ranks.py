"""Call a function in several processes and look at what each of them has to say; start them seldom, for many cases.

    results = in_each(2, cases)  # of `cases()`, in order of ranks

A start takes a third of a second, a job of several processes in one of them tenths more. So what is to be seen of many
processes is collected in one start, as a dict of plain values, and looked at by one test each.
"""

import os
import pickle
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # DistributedDataParallel imports it: here, once, not in each process for seconds
from torch import nn
from torch.utils.data import DataLoader, Dataset

from learner.ranks import launch

TIMEOUT = 60.0  # [s] after which a process that waits in vain fails; nothing here takes that long


def in_each(n, f, *args):
    """Return what `f(*args)` returns in each of `n` processes; raise what one of them raises."""
    with tempfile.TemporaryDirectory() as folder:
        launch(_put_down, n, Path(folder), f, args)
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(n)]


def _put_down(folder, f, args):
    result = f(*args)
    (folder / os.environ["RANK"]).write_bytes(pickle.dumps(result))


def error_of(f, *args):
    """Return the text of what a call raises, with the name of its class, or None."""
    try:
        f(*args)
    except BaseException as error:  # a signal, too
        return f"{type(error).__name__}: {error}"
    return None


class Noisy(Dataset):
    """Rows of ten numbers with noise of each global generator on them, and a label: whether the first is positive."""

    def __init__(self, n, seed=0, noise=0.1):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 10, generator=generator, dtype=torch.float64)
        self.y = (self.x[:, 0] > 0).long()
        self.y[::7] = 1 - self.y[::7]
        self.noise = noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        drawn = torch.randn(10, dtype=torch.float64) + random.random() + np.random.rand()
        return self.x[i] + self.noise * drawn, self.y[i]


def loaders(n_train=101, n_valid=54, batch_size=12, workers=0):
    """Return batches whose last one is shorter, and as many of validation as do not fit in whole ones."""
    return {
        "train": DataLoader(Noisy(n_train), batch_size, shuffle=True, num_workers=workers),
        "valid": DataLoader(Noisy(n_valid, seed=1), 20),
    }


def network(dropout=0.0):
    """Return a small classifier in float64, the same each time."""
    torch.manual_seed(0)
    layers = nn.Linear(10, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)
    return nn.Sequential(*layers).double()


def weights(learn):
    """Return the weights of a learner as one vector."""
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def largest(differences):
    """Return the largest of some numbers by its amount."""
    return max(abs(float(one)) for one in differences)
