"""The model of Hugging Face in `examples/hugging_face.py`, against a loop by hand."""

import torch

from examples.hugging_face import make_learner, sentences
from tests.examples.by_hand import assert_trains_as, warmup_cosine


def by_hand(model, loader, n_epochs):
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    i = 0
    model.train()
    for _ in range(n_epochs):
        for batch in loader:
            opt.param_groups[0]["lr"] = 3e-3 * warmup_cosine(i, n_epochs * len(loader))
            opt.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            i += 1


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2, rtol=1.3e-6, atol=1e-5)


def test_each_sentence_is_there_once():
    texts = [text for text, _ in sentences()]
    assert len(set(texts)) == len(texts) == 480
