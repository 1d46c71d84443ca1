"""Batches that wait are copies, joined in their order."""

import torch

from callbacks.measure.batch_buffer import BatchBuffer


def test_what_waits_is_a_copy_in_order_without_a_graph():
    preds, target = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    buffer = BatchBuffer(preds, target, room=5)
    for i in range(3):
        with torch.no_grad():
            preds.fill_(i)
        buffer.add(preds * 1, target.fill_(i))  # in memory that is used again
    joined, targets = buffer.joined()
    assert torch.equal(joined, torch.tensor([0.0, 0, 1, 1, 2, 2])[:, None].expand(6, 3))
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert not joined.requires_grad
    assert buffer.n == 3


def test_it_begins_anew_when_its_count_does():
    buffer = BatchBuffer(torch.zeros(1, 1), torch.zeros(1), room=1)
    for value in (1.0, 2.0):
        buffer.n = 0
        buffer.add(torch.full((1, 1), value), torch.full((1,), value))
    assert [part.item() for part in buffer.joined()] == [2.0, 2.0]
