"""The mean teacher of `examples/mean_teacher.py`, against a loop by hand."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from examples.mean_teacher import make_learner


def by_hand(n_epochs):
    learn = make_learner()
    model, teacher = learn.model, copy.deepcopy(learn.model)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(1)
    n_steps, accuracies = 0, []
    for _ in range(n_epochs):
        for batch in learn.dls["train"]:
            (x, y), unlabelled = batch["labelled"], batch["unlabelled"]
            loss = cross_entropy(model(x), y)
            noisy, again = (unlabelled + 0.1 * torch.randn(unlabelled.shape) for _ in range(2))
            with torch.no_grad():
                taught = teacher(noisy).softmax(dim=1)
            loss = loss + 30.0 * min(1, n_steps / 200) * mse_loss(model(again).softmax(dim=1), taught)
            loss.backward()
            opt.step()
            opt.zero_grad()
            n_steps += 1
            with torch.no_grad():
                decay = min(0.98, (1 + n_steps) / (10 + n_steps))
                for mean, p in zip(teacher.parameters(), model.parameters(), strict=True):
                    mean.lerp_(p, 1 - decay)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a loader draws a number when it begins
            right = torch.cat([teacher(x).argmax(dim=1) == y for x, y in learn.dls["valid"]])
        accuracies.append(right.double().mean().item())
    return model, teacher, accuracies


def test_it_equals_a_loop_by_hand():
    learn = make_learner()
    model, teacher, accuracies = by_hand(25)
    torch.manual_seed(1)
    learn.fit(25)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))
    assert all(map(torch.equal, learn.cbs[1].average.values(), teacher.parameters()))
    assert learn.history.to_dict()["valid/accuracy"] == pytest.approx(accuracies)


def test_the_teacher_knows_more_than_the_labels_say():
    accuracies = []
    for weight in (0.0, 30.0):
        learn = make_learner(weight=weight)
        learn.fit(30)
        accuracies.append(learn.metrics["valid"]["accuracy"])
    assert accuracies[0] < 0.9
    assert accuracies[1] > 0.94
