"""The classification of `examples/classification.py`, against a loop by hand."""

import torch
from torch.nn.functional import cross_entropy

from examples.classification import make_learner
from tests.examples.by_hand import assert_trains_as, one_cycle


def by_hand(model, loader, n_epochs):
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}])
    i = 0
    model.train()
    for _ in range(n_epochs):
        for x, y in loader:
            share, momentum = one_cycle(i, n_epochs * len(loader))
            for group in opt.param_groups:
                group |= {"lr": 1e-2 * share, "betas": (momentum, 0.999)}
            opt.zero_grad()
            cross_entropy(model(x), y).backward()
            opt.step()
            i += 1


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2)
