"""The reader of `examples/text.py`, against a loop by hand."""

import random

import torch

from examples.text import GOOD, encode, make_learner, sentence
from tests.examples.by_hand import assert_trains_as, clipped_adam


def test_it_equals_a_loop_by_hand():
    assert_trains_as(clipped_adam(lr=5e-3), make_learner, n_epochs=1)


def test_the_last_words_decide():
    draw = random.Random(1)
    for _ in range(50):
        text, label = sentence(draw)
        *_, last = text.split(" but ")
        is_turned = any(word in last.split() for word in ("not", "never", "hardly"))
        assert label == ((last.split()[-1] in GOOD) != is_turned)


def test_what_a_sentence_is_filled_up_with_changes_nothing():
    model = make_learner().model
    short = encode("the film was not good")
    padded = torch.cat([short, torch.zeros(4, dtype=torch.int64)])
    torch.testing.assert_close(model(padded[None]), model(short[None]))
