"""What is left of a fit, against sums by hand."""

import pytest

from callbacks.show.remaining import Remaining, in_words


def test_it_is_the_sum_over_all_batches_at_the_pace_of_their_loader():
    """Training 2 s a batch, validation 0.5 s; three epochs of 10 and 4 batches."""
    remaining, now = Remaining({"train": 10, "valid": 4}, n_epochs=3), 0.0
    for epoch in range(3):
        for loader, n, pace in (("train", 10, 2.0), ("valid", 4, 0.5)):
            remaining.begin(loader, 0, now)
            for i in range(1, n + 1):
                now += pace
                if epoch > 0:
                    assert remaining.left(epoch, i, now) == pytest.approx(3 * 22.0 - now)
            remaining.end(n, now)


def test_a_loader_that_has_not_run_yet_is_taken_to_be_as_fast_as_this_one():
    remaining = Remaining({"train": 10, "valid": 5}, n_epochs=2)
    remaining.begin("train", 0, 100.0)
    assert remaining.left(0, 2, 104.0) == (8 + 5 + 15) * 2.0


def test_a_fit_that_goes_on_counts_from_there():
    remaining = Remaining({"train": 10}, n_epochs=1)
    remaining.begin("train", 6, 0.0)
    assert remaining.left(0, 8, 4.0) == 2 * 2.0


@pytest.mark.parametrize("lengths", [{"train": None}, {"train": 10, "valid": None}])
def test_without_a_length_nobody_knows(lengths):
    remaining = Remaining(lengths, n_epochs=2)
    remaining.begin("train", 0, 0.0)
    assert remaining.left(0, 2, 4.0) is None


def test_before_the_first_batch_and_in_another_loader_nobody_knows():
    remaining = Remaining({"train": 10}, n_epochs=2)
    remaining.begin("train", 0, 0.0)
    assert remaining.left(0, 0, 1.0) is None
    remaining.begin("other", 0, 0.0)
    assert remaining.left(0, 1, 1.0) is None
    remaining.end(1, 1.0)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (41.4, "0:41"), (59.6, "1:00"), (3723, "1:02:03")])
def test_a_duration_in_words(seconds, words):
    assert in_words(seconds) == words
