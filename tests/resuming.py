"""Stop a training, go on with it in a learner that is made anew, and compare it with one that was not stopped.

    whole = uninterrupted(make, 3, tmp_path / "whole")
    for stop_at in range(27):
        learn = stopped_and_resumed(make, 3, stop_at, tmp_path / str(stop_at))
        assert_equal_runs(learn, whole)

`make(cbs)` makes the learner, with these callbacks besides its own; nothing may be shared between two of them. Where
a function takes `n_epochs`, `{"steps": 12}` asks for so many optimizer steps.
"""

import random
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from callbacks import CheckpointCallback
from learner import Callback, Learner, Loaders
from learner.checkpoint.snapshot import snapshot

RARELY = 10**6  # batches from one checkpoint to the next, where nobody goes on from them: to write one takes longest


class StoppedError(Exception):
    """Raised on purpose."""


class StopAt(Callback):
    """End the fit at a batch, from 0, counted over all the fit's own passes.

    Args:
        n: the batch; None for none, since all runs must have the same callbacks.
        by_interrupt: let it end and then stop as by Ctrl-C, which writes a last checkpoint; else fail before it.
    """

    order = -2000

    def __init__(self, n=None, by_interrupt=False):
        self.n, self.by_interrupt, self.n_seen = n, by_interrupt, 0

    def before_batch(self, learn):
        if not (learn.is_side_pass or self.by_interrupt or self.n_seen != self.n):
            raise StoppedError

    def after_batch(self, learn):
        if learn.is_side_pass:
            return
        if self.by_interrupt and self.n_seen == self.n:
            learn.interrupt = KeyboardInterrupt()
        self.n_seen += 1


def seed_all(seed):
    """Seed the generators of Python, NumPy and torch."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


def _fit(learn, length, **options):
    learn.fit(**(length if isinstance(length, dict) else {"n_epochs": length}), **options)


def uninterrupted(make, n_epochs, folder, every=1):
    """Return a learner that has trained without being stopped, with the same checkpoints."""
    learn = make([CheckpointCallback(folder, every), StopAt()])
    seed_all(0)
    _fit(learn, n_epochs)
    return learn


def stopped(make, n_epochs, stop_at, folder, every=1, by_interrupt=False):
    """Train as `uninterrupted`, as far as batch `stop_at`; return the learner as that has left it."""
    learn = make([CheckpointCallback(folder, every), StopAt(stop_at, by_interrupt)])
    seed_all(0)
    with suppress(StoppedError, KeyboardInterrupt):
        _fit(learn, n_epochs)
        raise AssertionError(f"there is no batch {stop_at}")
    return learn


def resumed(make, n_epochs, folder, every=RARELY):
    """Return a new learner that has gone on from the newest checkpoint; its generators stood elsewhere before."""
    learn = make([CheckpointCallback(folder, every), StopAt()])
    seed_all(0 if not any(folder.glob("*.pt")) else 99)  # without a checkpoint it begins anew
    _fit(learn, n_epochs, resume=True)
    return learn


def resumed_from_each(make, n_epochs, folder):
    """Return a learner that was not stopped, and a list of new ones, each gone on from one of its training batches.

    Quicker than to stop at each; for positions in validation passes see `resumed_from_each_validation`.
    """
    whole = make([CheckpointCallback(folder / "whole", every=1, keep=10**6), StopAt()])
    seed_all(0)
    _fit(whole, n_epochs)
    gone_on = []
    for path in sorted((folder / "whole").glob("*.pt")):
        gone_on.append(make([CheckpointCallback(folder / path.stem, RARELY), StopAt()]))
        seed_all(99)
        _fit(gone_on[-1], n_epochs, resume=path)
    return whole, gone_on


def resumed_from_each_validation(make, n_epochs, folder, n_whole=None):
    """Return new learners, each gone on from one of the validation batches of a `tiny_learner`, after an interrupt.

    `n_whole` are the epochs that there are, where a callback ends the fit before `n_epochs`.
    """
    places = [9 * epoch + i for epoch in range(n_whole or n_epochs) for i in (6, 7, 8)]
    return [stopped_and_resumed(make, n_epochs, n, folder / f"after-{n}", "epoch", by_interrupt=True) for n in places]


def tiny_learner(cbs, opt_func=torch.optim.AdamW, lr=0.05):
    """Return a learner with dropout and batch norm; an epoch is 6 shuffled training and 3 validation batches."""
    seed_all(0)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 4, generator=generator), torch.randint(3, (32,), generator=generator)
    dls = Loaders.from_arrays(train=(x[:22], y[:22]), valid=(x[22:], y[22:]), batch_size=4)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    return Learner(model, dls, nn.functional.cross_entropy, lr, opt_func, cbs)


def stopped_and_resumed(make, n_epochs, stop_at, folder, every=1, by_interrupt=False):
    """Return a new learner that has gone on where another was stopped; see `StopAt`."""
    stopped(make, n_epochs, stop_at, folder, every, by_interrupt)
    return resumed(make, n_epochs, folder)


def leaves(value, where=""):
    """Give all that a nest of plain data holds, with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{where}[{i}]")
    else:
        yield where, value


def is_same(a, b):
    """Tell whether two leaves are the same, to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=-1e30), b.nan_to_num(nan=-1e30))
    return a == b or (isinstance(a, float) and a != a and b != b)


def differing(one, other):
    """Return the places in which two nests of plain data differ by a bit or more."""
    one, other = dict(leaves(one)), dict(leaves(other))
    unlike = set(one) ^ set(other)
    return sorted(unlike | {where for where in one.keys() & other.keys() if not is_same(one[where], other[where])})


def assert_equal_runs(a, b):
    """Compare two learners bit for bit, all but what their callbacks keep (`snapshot(learn)["callbacks"]`).

    Compared are weights, buffers, modes, optimizer, counters, history, metrics, the best epoch, and random generators.
    """
    one, other = ({**snapshot(learn), "callbacks": None, "observing": None, "best": learn.best} for learn in (a, b))
    assert differing(one, other) == []
