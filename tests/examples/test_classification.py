"""The classification of `examples/classification.py`, against a loop by hand."""

import math

import torch
from torch.nn.functional import cross_entropy

from examples.classification import make_learner


def cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def by_hand(n_epochs):
    learn = make_learner()
    model, loader = learn.model, learn.dls.train
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}])
    torch.manual_seed(1)
    n, n_up, i = n_epochs * len(loader), 0.25 * n_epochs * len(loader), 0
    model.train()
    for _ in range(n_epochs):
        for x, y in loader:
            up, down = i / n_up, (i - n_up) / (n - n_up)
            for group in opt.param_groups:
                group["lr"] = 1e-2 * (cosine(1 / 25, 1.0, up) if i < n_up else cosine(1.0, 1e-5, down))
                group["betas"] = (cosine(0.95, 0.85, up) if i < n_up else cosine(0.85, 0.95, down), 0.999)
            opt.zero_grad()
            cross_entropy(model(x), y).backward()
            opt.step()
            i += 1
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    assert all(map(torch.equal, learn.model.state_dict().values(), model.state_dict().values()))
