"""Contrastive learning as in `examples/self_supervised.py`, against a loop by hand."""

import torch
from torch.nn.functional import log_softmax

from callbacks import BatchTransformCallback
from examples.self_supervised import contrastive, found_again, make_learner, same_digit, views
from learner import Callback


class KeepBatches(Callback):
    """Keep the batches of training as they go into the model."""

    def __init__(self):
        self.kept = []

    def after_predict(self, learn):
        if learn.training:
            self.kept.append(learn.xb)


def by_hand(batches):
    model = make_learner().model
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for both in batches:
        found = model.body(both.reshape(-1, 1, 8, 8))
        found = found / found.norm(dim=1, keepdim=True)
        likeness = found[::2] @ found[1::2].T / 0.2
        right = [log_softmax(one, dim=1).diagonal().mean() for one in (likeness, likeness.T)]
        opt.zero_grad()
        (-sum(right) / 2).backward()
        opt.step()
    return model


def test_it_equals_a_loop_by_hand():
    keep = KeepBatches()
    learn = make_learner(cbs=[keep])
    learn.fit(1)
    for p, other in zip(learn.model.parameters(), by_hand(keep.kept).parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-3, atol=1e-4)  # other sums


def test_views_are_of_the_same_image_and_no_label_is_asked():
    images = torch.zeros(4, 1, 8, 8)
    images[range(4), 0, range(2, 6), range(2, 6)] = 10
    both, labels = views((images, torch.arange(4)), torch.Generator().manual_seed(0))
    assert both.shape == (4, 2, 1, 8, 8)
    places = (both > 5).nonzero()[:, 3:].reshape(4, 2, 2)
    assert (places - torch.arange(2, 6)[:, None, None]).abs().max() <= 1
    found = torch.nn.functional.normalize(torch.randn(4, 2, 3), dim=2)
    assert contrastive(found, labels) == contrastive(found, None)


def test_the_metrics_by_hand():
    found = torch.eye(3)[:, None].repeat(1, 2, 1)
    assert found_again(found, None) == 1
    assert same_digit(found, torch.tensor([1, 1, 1])) == 1
    assert same_digit(found, torch.tensor([0, 1, 2])) == 0
    assert any(isinstance(cb, BatchTransformCallback) for cb in make_learner().cbs)
