"""The model of Hugging Face in `examples/hugging_face.py`, against a loop by hand."""

import math

import torch

from examples.hugging_face import make_learner, sentences


def by_hand(n_epochs):
    learn = make_learner()
    model, loader = learn.model, learn.dls.train
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(1)
    n, i = n_epochs * len(loader), 0
    n_warmup = round(0.1 * n)
    model.train()
    for _ in range(n_epochs):
        for batch in loader:
            share = (i - n_warmup) / (n - n_warmup)
            factor = (i + 1) / (n_warmup + 1) if i < n_warmup else (1 + math.cos(math.pi * share)) / 2
            opt.param_groups[0]["lr"] = 3e-3 * factor
            opt.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            i += 1
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    for p, other in zip(learn.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, other)


def test_each_sentence_is_there_once():
    texts = [text for text, _ in sentences()]
    assert len(set(texts)) == len(texts) == 480
