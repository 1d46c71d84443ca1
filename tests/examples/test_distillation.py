"""Distillation as in `examples/distillation.py`, against a loop by hand."""

import torch
from torch.nn.functional import cross_entropy

from examples.distillation import N_LABELLED, TEMPERATURE, digits, make_learner, train_teacher


def by_hand(teacher, n_epochs):
    learn = make_learner(teacher=teacher)
    model = learn.model
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(1)
    for _ in range(n_epochs):
        for x, label, taught in learn.dls.train:
            preds = model(x)
            wanted = (taught / TEMPERATURE).softmax(1)
            divergence = (wanted * (wanted.log() - (preds / TEMPERATURE).log_softmax(1))).sum() / len(x)
            has_label = label >= 0
            hard = cross_entropy(preds[has_label], label[has_label], reduction="sum") / len(x)
            opt.zero_grad()
            (TEMPERATURE**2 * divergence + hard).backward()
            opt.step()
    return model


def test_it_equals_a_loop_by_hand():
    teacher = train_teacher()
    learn, model = make_learner(teacher=teacher), by_hand(teacher, 2)
    torch.manual_seed(1)
    learn.fit(2)
    for p, other in zip(learn.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, other)


def test_only_a_few_labels_are_there_and_the_teacher_speaks_of_all_images():
    teacher = train_teacher()
    x, known, taught = make_learner(teacher=teacher).dls.train.dataset.tensors
    assert (known >= 0).sum() == N_LABELLED
    assert torch.equal(known[:N_LABELLED], digits()[1][:N_LABELLED])
    assert torch.equal(taught, teacher(x))
