"""Distillation as in `examples/distillation.py`, against a loop by hand."""

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from examples.distillation import N_LABELLED, TEMPERATURE, digits, make_learner, train_teacher
from tests.examples.by_hand import assert_trains_as


def by_hand(teacher, model, loader, n_epochs):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(n_epochs):
        for x, label, taught in loader:
            preds = model(x)
            wanted = (taught / TEMPERATURE).softmax(1)
            divergence = (wanted * (wanted.log() - (preds / TEMPERATURE).log_softmax(1))).sum() / len(x)
            has_label = label >= 0
            hard = cross_entropy(preds[has_label], label[has_label], reduction="sum") / len(x)
            opt.zero_grad()
            (TEMPERATURE**2 * divergence + hard).backward()
            opt.step()


def test_it_equals_a_loop_by_hand():
    teacher = train_teacher()
    assert_trains_as(
        partial(by_hand, teacher), partial(make_learner, teacher=teacher), n_epochs=2, rtol=1.3e-6, atol=1e-5
    )


def test_only_a_few_labels_are_there_and_the_teacher_speaks_of_all_images():
    teacher = train_teacher()
    x, known, taught = make_learner(teacher=teacher).dls.train.dataset.tensors
    assert (known >= 0).sum() == N_LABELLED
    assert torch.equal(known[:N_LABELLED], digits()[1][:N_LABELLED])
    assert torch.equal(taught, teacher(x))
