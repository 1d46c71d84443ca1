"""Fine-tuning as in `examples/finetune.py`, against a loop by hand."""

import math

import torch
from torch.nn.functional import cross_entropy

from examples.finetune import make_learner


def cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def by_hand(n_epochs):
    learn = make_learner()
    model, (body, head) = learn.model, learn.model.children()
    frozen = [p for m in body.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for p in m.parameters()]
    groups = []
    for n_behind, block in enumerate([[head], body[3], body[1], body[0]]):
        weights = [m.weight for m in block if hasattr(m, "weight") and m.weight.ndim > 1]
        others = [p for m in block for p in m.parameters() if p.ndim == 1]
        rate = 3e-2 * 0.3**n_behind
        groups += [{"params": weights, "base": rate}, {"params": others, "base": rate, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups)
    torch.manual_seed(1)
    n_up = 0.25 * n_epochs
    model.train()
    for epoch in range(n_epochs):  # of one batch
        for p in frozen:
            p.requires_grad_(epoch >= 10)
        up, down = epoch / n_up, (epoch - n_up) / (n_epochs - n_up)
        for group in opt.param_groups:
            group["lr"] = group["base"] * (cosine(1 / 25, 1.0, up) if epoch < n_up else cosine(1.0, 1e-5, down))
            group["betas"] = (cosine(0.95, 0.85, up) if epoch < n_up else cosine(0.85, 0.95, down), 0.999)
        for x, y in learn.dls.train:
            opt.zero_grad()
            cross_entropy(model(x), y).backward()
            opt.step()
    return model


def test_it_equals_a_loop_by_hand():
    learn = make_learner()
    torch.manual_seed(1)
    learn.fit(14)
    assert all(map(torch.equal, learn.model.state_dict().values(), by_hand(14).state_dict().values()))


def test_what_is_frozen_stays_and_its_norms_and_the_head_train():
    learn, before = make_learner(), make_learner().model.state_dict()
    learn.fit(10)
    moved = [name for name, p in learn.model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["body.0.1.weight", "body.0.1.bias", "body.1.1.weight", "body.1.1.bias", "head.weight", "head.bias"]
