"""Small pictures first: which sizes come when, the same after a resume, and what cannot be shrunk."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from callbacks import LambdaCallback, ProgressiveResize
from learner import Learner, LearnerError
from tests.positions import assert_by_position

X, Y = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])


def model():
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))


def sizes_of(train, *cbs, **length):
    """Return the sizes that a fit has trained on, and that it has validated on."""
    seen = {"train": [], "valid": []}
    look = LambdaCallback(before_batch=lambda learn: seen[learn.dl_name].append(tuple(learn.batch[0].shape[-2:])))
    Learner(model(), {"train": train, "valid": [(X, Y)]}, cross_entropy, 0.1, cbs=[*cbs, look]).fit(**length)
    return seen["train"], seen["valid"]


def test_sides_grow_in_a_line_in_multiples_and_are_whole_for_the_last_fifth():
    trained, validated = sizes_of([(X, Y)] * 2, ProgressiveResize(0.5, 0.8, 8), n_epochs=10)
    by_hand = [0.5 + 0.5 * min(1, i / 20 / 0.8) for i in range(20)]
    assert trained == [(round(32 * share / 8) * 8, round(48 * share / 8) * 8) for share in by_hand]
    assert trained[0] == (16, 24)
    assert trained[-4:] == [(32, 48)] * 4
    assert set(validated) == {(32, 48)}
    assert len(set(trained)) == 6


@pytest.mark.parametrize(
    ("length", "n_batches"), [({"n_epochs": 1}, 10), ({"steps": 10}, 5), ({"n_epochs": 5}, 2)], ids=str
)
def test_the_last_fifth_is_whole_however_a_fit_is_divided_up(length, n_batches):
    trained, _ = sizes_of([(X, Y)] * n_batches, ProgressiveResize(multiple=1), **length)
    assert len(trained) == 10
    assert [size == (32, 48) for size in trained] == [False] * 8 + [True] * 2
    assert trained == sorted(trained)


def test_an_epoch_of_unknown_length_has_one_size():
    class Unknown:
        def __iter__(self):
            return iter([(X, Y)] * 2)

    trained, _ = sizes_of(Unknown(), ProgressiveResize(multiple=1), n_epochs=5)
    assert trained[::2] == trained[1::2]
    assert [size == (32, 48) for size in trained[::2]] == [False, False, False, True, True]


def test_a_fit_that_was_stopped_goes_on_with_the_same_sizes_whatever_workers_and_validation(tmp_path):
    assert_by_position(lambda: [ProgressiveResize(multiple=4)], tmp_path)


def test_pictures_are_those_that_torch_makes_and_other_inputs_are_left_alone():
    class Two(nn.Linear):
        def forward(self, extra, picture):
            return super().forward(extra) + picture.mean()

    seen = []
    extra = torch.ones(2, 3)
    batch = {"picture": X, "extra": extra, "label": Y}
    look = LambdaCallback(before_batch=lambda learn: seen.append(learn.batch))
    Learner(Two(3, 2), {"train": [batch]}, cross_entropy, cbs=[ProgressiveResize(), look]).fit(1)
    assert torch.equal(seen[0]["picture"], interpolate(X, (16, 24), mode="bilinear", antialias=True))
    assert seen[0]["extra"] is extra
    assert batch["picture"] is X


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.ones(2, 4), Y), "a batch must hold pictures of floating point"),
        ((torch.ones(2, 1, 8, 8, dtype=torch.uint8), Y), "a batch must hold pictures of floating point"),
        ((X, torch.zeros(2, 32, 48)), "a target must not be a picture"),
        ((X, X[:, 0].long()), "a target must not be a picture"),
    ],
)
def test_what_cannot_be_shrunk_is_one_error_in_the_first_batch(batch, message):
    with pytest.raises(LearnerError, match=message):
        Learner(model(), {"train": [batch]}, cross_entropy, cbs=ProgressiveResize()).fit(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": 0}, ValueError, "`start` must be a number above 0 and at most 1"),
        ({"start": 1.5}, ValueError, "`start` must be a number above 0 and at most 1"),
        ({"start": "0.5"}, TypeError, "`start` must be a number above 0 and at most 1"),
        ({"until": float("nan")}, ValueError, "`until` must be a number above 0 and at most 1"),
        ({"until": True}, TypeError, "`until` must be a number above 0 and at most 1"),
        ({"multiple": 0}, ValueError, "`multiple` must be at least 1 pixel"),
        ({"multiple": 8.0}, TypeError, "`multiple` must be a whole number of pixels"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ProgressiveResize(**arguments)
