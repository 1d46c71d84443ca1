"""Numbers of many batches, in few tensors."""

import torch

from learner.loop.column import Column


def test_numbers_of_any_kind_come_back_in_order_and_are_held_in_few_tensors():
    column = Column()
    expected = [i / 2 for i in range(1000)]
    for i, value in enumerate(expected):
        column.append(torch.tensor(value) if i % 100 else value)
    assert column.read() == expected
    assert len(column.state_dict()) <= 30
    again = Column(column.state_dict())
    again.append(torch.tensor([7.0]))
    assert again.read() == [*expected, 7.0]


def test_what_is_drained_is_forgotten():
    column = Column()
    column.append(1.0)
    assert (column.drain(), column.drain()) == ([1.0], [])
