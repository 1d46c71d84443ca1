"""The detector of `examples/detection.py`, against a loop by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy, smooth_l1_loss

from examples.detection import SIZE, make_learner, overlap, scenes
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(n_epochs):
        for image, kind, box in loader:
            kinds, boxes = model(image)
            opt.zero_grad()
            (cross_entropy(kinds, kind) + 50 * smooth_l1_loss(boxes, box)).backward()
            opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2)


def test_the_overlap_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]]) / 4
    others = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0]]) / 4
    assert overlap((None, boxes), (None, others)).item() == pytest.approx((1 / 7 + 0) / 2)
    assert overlap((None, boxes), (None, boxes)).item() == 1


def test_a_box_is_around_its_thing():
    torch.manual_seed(0)
    images, _, boxes = scenes(30)
    for image, box in zip(images[:, 0], (boxes * SIZE).round().int().tolist(), strict=True):
        left, top, right, bottom = box
        inside = image[top:bottom, left:right].sum()
        assert inside > 0.8 * (image.sum() - 0.15 * SIZE * 6)
        assert image[top, left:right].mean() > image[(top + SIZE // 2) % SIZE, :3].mean()
