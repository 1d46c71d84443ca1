"""The reader of `examples/text.py`, against a loop by hand."""

import random

import torch
from torch.nn.functional import cross_entropy

from examples.text import GOOD, encode, make_learner, sentence


def by_hand(n_epochs):
    learn = make_learner()
    model = learn.model
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(1)
    for _ in range(n_epochs):
        for x, y in learn.dls.train:
            opt.zero_grad()
            cross_entropy(model(x), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(1)
    torch.manual_seed(1)
    learn.fit(1)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))


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
