"""Predictions and targets of a pass, put together."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from learner.loop.gather import Gather


class Stub:
    """The little of a learner that is looked at."""

    def __init__(self, preds, yb):
        self.preds, self.yb = preds, yb
        self.batch_size, self.i = 2, 0


def gathered(*pairs):
    gather = Gather()
    for preds, yb in pairs:
        gather.after_batch(Stub(preds, yb))
    return gather.result()


A, B = torch.ones(2, 3), torch.zeros(1, 3)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([A, B], torch.cat([A, B])),
        ([torch.tensor(1.0), torch.tensor(2.0)], torch.tensor([1.0, 2.0])),
        ([(A, A), (B, B)], (torch.cat([A, B]), torch.cat([A, B]))),
        ([[A], [B]], (torch.cat([A, B]),)),
        ([{"a": A, "b": [A]}, {"a": B, "b": [B]}], {"a": torch.cat([A, B]), "b": (torch.cat([A, B]),)}),
        (["one", "two"], ["one", "two"]),
        ([], None),
    ],
)
def test_parts_are_joined_along_the_first_axis(parts, expected):
    for preds, targets in (gathered(*((part, None) for part in parts)), gathered(*((A, part) for part in parts))[::-1]):
        if isinstance(expected, list) or expected is None:
            assert preds == expected
        else:
            torch.testing.assert_close(preds, expected)
            assert targets is None or torch.equal(targets, torch.cat([A] * len(parts)))


LONGER, PACKED = torch.ones(2, 5), pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])


@pytest.mark.parametrize(
    "parts",
    [
        [A, LONGER],
        [A, torch.tensor(1.0)],
        [PACKED, PACKED],
        [A, (A, A)],
        [(A,), (A, A)],
        [{"a": A}, {"b": A}],
        [torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)] * 2,
    ],
)
def test_what_cannot_be_joined_is_a_list_of_what_each_batch_gave(parts):
    preds, targets = gathered(*((part, part) for part in parts))
    assert list(map(type, preds)) == list(map(type, targets)) == list(map(type, parts))
    if isinstance(parts[0], PackedSequence):
        assert all(torch.equal(pred.data, PACKED.data) for pred in preds)


def test_only_the_part_that_cannot_be_joined_is_a_list():
    preds, _ = gathered(((A, A), None), ((B, LONGER), None))
    assert torch.equal(preds[0], torch.cat([A, B]))
    assert [part.shape for part in preds[1]] == [A.shape, LONGER.shape]


def test_what_is_gathered_is_detached_and_a_copy():
    out = torch.ones(2, requires_grad=True) * 2
    gather = Gather()
    gather.after_batch(Stub(out, out))
    with torch.no_grad():
        out.zero_()
    preds, targets = gather.result()
    assert (preds.tolist(), targets.tolist()) == ([2, 2], [2, 2])
    assert not preds.requires_grad


def test_a_batch_that_was_cut_short_before_its_prediction_is_left_out():
    preds, targets = gathered((A, A), (None, B), (B, B))
    assert torch.equal(preds, torch.cat([A, B]))
    assert torch.equal(targets, torch.cat([A, B]))


def test_a_list_with_a_thing_for_each_sample_is_joined_end_to_end():
    boxes = [{"boxes": A}, {"boxes": B}]
    preds, targets = gathered((boxes, ["a", "b"]), (boxes[::-1], ["c", "d"]))
    assert [len(pred["boxes"]) for pred in preds] == [2, 1, 1, 2]
    assert targets == ["a", "b", "c", "d"]
