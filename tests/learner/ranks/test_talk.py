"""A word at a time between three processes, and what goes with it."""

import pytest

from learner import LearnerError
from learner.ranks.join import joined_job
from learner.ranks.talk import Talk, packed, unpacked
from tests.ranks import TIMEOUT, in_each


def say_it_all():
    joined_job("step", TIMEOUT)
    talk = Talk(TIMEOUT)
    mine = "ä" * (talk.rank * 400)  # of two bytes each
    return {
        "who": (talk.rank, talk.world),
        "word": talk.word(talk.rank, "here"),
        "size": talk.word(0, "here", 10 * talk.rank),
        "elsewhere": talk.word(7 - talk.rank, "there" if talk.rank == 1 else "here"),
        "again": talk.word(0, "here"),
        "all": talk.all_of(bytes([talk.rank]) * talk.rank, 2),
        "first": talk.of_first(b"of the first" if talk.rank == 0 else b"", 12),
        "texts": talk.texts(f"{talk.rank}{mine}"),
    }


@pytest.fixture(scope="module")
def said():
    return in_each(3, say_it_all)


def test_each_knows_who_it_is(said):
    assert [one["who"] for one in said] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("what", "heard"),
    [
        ("word", (2, 0, True)),
        ("size", (0, 20, True)),
        ("elsewhere", (7, 0, False)),
        ("again", (0, 0, True)),  # nothing is left of the word before
        ("all", [b"", b"\1", b"\2\2"]),
        ("first", b"of the first"),
    ],
)
def test_all_hear_the_same(said, what, heard):
    assert [one[what] for one in said] == [heard] * 3


def test_long_texts_are_cut_between_characters(said):
    texts = said[0]["texts"]
    assert [text[0] for text in texts] == ["0", "1", "2"]
    assert [len(text) for text in texts] == [1, 300, 300]
    assert all(one["texts"] == texts for one in said)


def test_plain_data_comes_back_as_it_was():
    value = {"a": [1, (2.0, "b")], "c": None}
    assert unpacked(packed(value)) == value


def test_what_cannot_be_sent_is_said():
    with pytest.raises(LearnerError, match=r"must be something that pickle takes, got function: .*lambda"):
        packed(lambda: 0)
