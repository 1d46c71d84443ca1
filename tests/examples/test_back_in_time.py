"""The language model of `examples/back_in_time.py`, against a loop by hand; and what is broken of its text."""

from examples.back_in_time import BROKEN, CHARACTERS, N_CHARACTERS, TEXT, make_learner, read
from tests.examples.by_hand import assert_trains_as, clipped_adam


def test_it_equals_a_loop_by_hand():
    assert_trains_as(clipped_adam(lr=1e-2), make_learner, n_epochs=1)


def test_the_broken_samples_and_no_others_are_backwards():
    texts = ["".join(CHARACTERS[code] for code in sample) for sample in read()]
    for i, text in enumerate(texts):
        as_it_was = TEXT[i * N_CHARACTERS : (i + 1) * N_CHARACTERS + 1]
        assert text == (as_it_was[::-1] if i in BROKEN else as_it_was)
