"""Fine-tuning as in `examples/finetune.py`, against a loop by hand."""

import torch
from torch.nn.functional import cross_entropy

from examples.finetune import make_learner
from tests.examples.by_hand import assert_trains_as, one_cycle


def by_hand(model, loader, n_epochs):
    body, head = model.children()
    frozen = [p for m in body.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for p in m.parameters()]
    groups = []
    for n_behind, block in enumerate([[head], body[3], body[1], body[0]]):
        weights = [m.weight for m in block if hasattr(m, "weight") and m.weight.ndim > 1]
        others = [p for m in block for p in m.parameters() if p.ndim == 1]
        rate = 3e-2 * 0.3**n_behind
        groups += [{"params": weights, "base": rate}, {"params": others, "base": rate, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups)
    model.train()
    for epoch in range(n_epochs):  # of one batch
        for p in frozen:
            p.requires_grad_(epoch >= 10)
        share, momentum = one_cycle(epoch, n_epochs)
        for group in opt.param_groups:
            group |= {"lr": group["base"] * share, "betas": (momentum, 0.999)}
        for x, y in loader:
            opt.zero_grad()
            cross_entropy(model(x), y).backward()
            opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=14)


def test_what_is_frozen_stays_and_its_norms_and_the_head_train():
    learn, before = make_learner(), make_learner().model.state_dict()
    learn.fit(10)
    moved = [name for name, p in learn.model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["body.0.1.weight", "body.0.1.bias", "body.1.1.weight", "body.1.1.bias", "head.weight", "head.bias"]
