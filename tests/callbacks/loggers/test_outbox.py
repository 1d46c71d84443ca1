"""Values on their way: read in bulk, in order, and none lost."""

import torch

from callbacks.loggers.logger import Point
from callbacks.loggers.outbox import Outbox


def test_tensors_are_read_to_the_last_digit_whatever_they_are():
    outbox = Outbox()
    values = [
        torch.tensor(0.1),
        torch.tensor([0.1], dtype=torch.float64),
        torch.tensor(3),
        0.3,
        torch.tensor(0.5).half(),
    ]
    for i, value in enumerate(values):
        outbox.add_later(i, {"a": value})
    assert [point.values["a"] for point in outbox.read()] == [float(torch.tensor(0.1)), 0.1, 3.0, 0.3, 0.5]


def test_points_are_in_the_order_of_their_steps_and_batches_before_their_epoch():
    outbox = Outbox()
    outbox.add(Point(2, {"row": 1.0}))
    for step in (1, 2, 3):
        outbox.add_later(step, {"batch": 0.0})
    assert [(point.step, *point.values) for point in outbox.read()] == [
        (1, "batch"),
        (2, "batch"),
        (2, "row"),
        (3, "batch"),
    ]


def test_what_was_not_sent_waits_and_of_too_much_the_oldest_go(monkeypatch):
    monkeypatch.setattr(Outbox, "_MOST", 3)
    outbox = Outbox()
    for step in range(5):
        outbox.add_later(step, {"a": 0.0})
    assert [point.step for point in outbox.read()] == [2, 3, 4]
    assert [point.step for point in outbox.read()] == [2, 3, 4]
    outbox.mark_sent()
    assert outbox.read() == []


def test_a_state_has_what_was_not_sent_and_all_of_the_last_step_that_was():
    outbox = Outbox()
    for step in (1, 2):
        outbox.add(Point(step, {"batch": 0.0}))
    outbox.mark_sent()
    outbox.add(Point(2, {"row": 1.0}))
    outbox.mark_sent()
    outbox.add_later(3, {"batch": torch.tensor(0.5)})
    other = Outbox()
    other.load_state_dict(outbox.state_dict())
    assert other.read() == [Point(2, {"batch": 0.0}), Point(2, {"row": 1.0}), Point(3, {"batch": 0.5})]
    assert other.first_step(9) == 2
    assert Outbox().first_step(9) == 9
