"""The language model of `examples/bptt.py`, against a loop by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from callbacks import ValidateCallback
from examples.bptt import N_STEPS, N_STREAMS, TEXT, make_learner


def by_hand(n_epochs):
    learn = make_learner()
    model, opt = learn.model, torch.optim.Adam(learn.model.parameters(), lr=5e-3)
    means = []
    for _ in range(n_epochs):
        hidden, losses = None, []
        for x, y in learn.dls["train"]:
            preds, hidden = model(x, hidden)
            hidden = hidden.detach()
            loss = cross_entropy(preds, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
        hidden, valid_losses = None, []
        with torch.no_grad():
            for x, y in learn.dls["valid"]:
                preds, hidden = model(x, hidden)
                valid_losses.append(cross_entropy(preds, y).item())
        means.append((sum(losses) / len(losses), sum(valid_losses) / len(valid_losses)))
    return model, means


@pytest.fixture(scope="module")
def reference():
    return by_hand(2)


def test_it_equals_a_loop_by_hand(reference):
    model, means = reference
    learn = make_learner()
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))
    rows = [(row["train/loss"], row["valid/loss"]) for row in learn.history]
    assert rows == [pytest.approx(row, rel=1e-6) for row in means]


def test_a_validation_in_the_middle_of_a_pass_gives_the_hidden_state_back(reference):
    learn = make_learner(cbs=[ValidateCallback(every=7)])
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), reference[0].parameters()))


def test_each_stream_goes_on_where_its_batch_before_ended():
    first, second = make_learner().dls["train"][:2]
    assert first[0].shape == (N_STREAMS, N_STEPS)
    assert torch.equal(first[0][:, 1:], first[1][:, :-1])
    assert torch.equal(first[1][:, -1], second[0][:, 0])
    assert len(TEXT) == 20_000
