"""Values on their way: read in bulk, in order, and none lost."""

import torch

from callbacks.loggers.logger import Point
from callbacks.loggers.outbox import Outbox


def test_tensors_are_read_to_the_last_digit_whatever_they_are():
    outbox = Outbox()
    exact = torch.tensor([0.1], dtype=torch.float64)
    for step, (loss, rates) in enumerate([(torch.tensor(0.1), [0.3]), (exact, [exact, 3]), (torch.tensor(3), [])]):
        outbox.add_batch(step, "train", loss, rates)
    assert [point.values for point in outbox.read()] == [
        {"train/batch_loss": float(torch.tensor(0.1)), "lr": 0.3},
        {"train/batch_loss": 0.1, "lr/0": 0.1, "lr/1": 3.0},
        {"train/batch_loss": 3.0},
    ]


def test_tensors_of_one_kind_are_read_at_once(monkeypatch):
    reads, outbox = [], Outbox()
    for step in range(100):
        outbox.add_batch(step, "train", torch.tensor(0.1), [torch.tensor(0.1, dtype=torch.float64), 0.1])
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(len(self)) or tolist(self))
    outbox.read()
    assert max(reads) == 100


def test_points_are_in_the_order_of_their_steps_and_batches_before_their_epoch():
    outbox = Outbox()
    outbox.add(Point(2, {"row": 1.0}))
    for step in (1, 2, 3):
        outbox.add_batch(step, "train", torch.tensor(0.0), [])
    assert [(point.step, *point.values) for point in outbox.read()] == [
        (1, "train/batch_loss"),
        (2, "train/batch_loss"),
        (2, "row"),
        (3, "train/batch_loss"),
    ]


def test_what_was_not_sent_waits_and_of_too_much_the_oldest_go(monkeypatch):
    monkeypatch.setattr(Outbox, "_MOST", 3)
    outbox = Outbox()
    for step in range(5):
        outbox.add_batch(step, "train", torch.tensor(0.0), [])
    assert [point.step for point in outbox.read()] == [2, 3, 4]
    assert [point.step for point in outbox.read()] == [2, 3, 4]
    outbox.add_batch(5, "train", torch.tensor(0.0), [])
    assert [point.step for point in outbox.read()] == [3, 4, 5]
    outbox.mark_sent()
    assert outbox.read() == []


def test_a_state_has_what_was_not_sent_and_all_of_the_last_step_that_was():
    outbox = Outbox()
    for step in (1, 2):
        outbox.add(Point(step, {"batch": 0.0}))
    outbox.mark_sent()
    outbox.add(Point(2, {"row": 1.0}))
    outbox.mark_sent()
    outbox.add_batch(3, "train", torch.tensor(0.5), [])
    other = Outbox()
    other.load_state_dict(outbox.state_dict())
    assert other.read() == [Point(2, {"batch": 0.0}), Point(2, {"row": 1.0}), Point(3, {"train/batch_loss": 0.5})]
    assert other.first_step(9) == 2
    assert Outbox().first_step(9) == 9
