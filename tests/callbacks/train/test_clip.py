"""Clipping, against `clip_grad_norm_` in a hand-written loop."""

import math

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, ClipGradientCallback, LambdaCallback, RecorderCallback
from learner import Callback, CancelStepException, Learner, LearnerError


def train_by_hand(learn, max_norm, *, opt_func=torch.optim.SGD, n_epochs=2):
    """Train the learner's model, as it was made; return the norms before clipping."""
    opt = opt_func(learn.model.parameters(), lr=0.1)
    norms = []
    for _ in range(n_epochs):
        for x, y in learn.dls.train:
            nn.functional.cross_entropy(learn.model(x), y).backward()
            norms.append(nn.utils.clip_grad_norm_(learn.model.parameters(), max_norm).item())
            opt.step()
            opt.zero_grad()
    return norms


@pytest.mark.parametrize("max_norm", [0.05, 0.5, math.inf])
def test_it_equals_a_hand_written_loop(make_learner, max_norm):
    clip = ClipGradientCallback(max_norm)
    recorder = RecorderCallback(norm=lambda learn: clip.norm)
    learn, reference = make_learner([clip, recorder]), make_learner()
    torch.manual_seed(5)
    norms = train_by_hand(reference, max_norm)
    torch.manual_seed(5)
    learn.dls = {"train": learn.dls.train}  # a validation draws no numbers, but is not in the loop by hand
    learn.fit(2)
    for p, q in zip(learn.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert recorder.values["norm"] == norms
    assert max(norms) > 0.5  # both finite limits clip


@pytest.mark.parametrize("listed", [0, 1])
def test_it_sees_the_gradient_of_the_whole_window_once_a_step(listed):
    """Two batches that pull in opposite directions: each alone would be clipped, together they cancel out."""
    cbs = [AccumulateCallback(2), ClipGradientCallback(1.0)]
    batches = [(torch.ones(1, 1), torch.full((1, 1), 100.0)), (torch.ones(1, 1), torch.full((1, 1), -99.0))]
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    learn = Learner(model, {"train": batches}, nn.functional.mse_loss, lr=0.1, cbs=cbs[:: -1 if listed else 1])
    learn.fit(1)
    # gradients -200 and 198, mean -1: norm 1, left alone
    assert model.weight.item() == pytest.approx(0.1, rel=1e-5)
    assert cbs[1].norm.item() == pytest.approx(1.0, rel=1e-5)


def test_it_measures_all_groups_together_and_the_optimizers_parameters_alone(make_learner):
    def opt_func(params, lr):
        return torch.optim.SGD([{"params": params[:1]}, {"params": params[2:]}], lr=lr)

    clip = ClipGradientCallback(math.inf)
    learn = make_learner(clip, opt_func=opt_func, dls={"train": [(torch.ones(2, 4), torch.tensor([0, 1]))]})
    nn.functional.cross_entropy(learn.model(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
    grads = [p.grad.clone() for i, p in enumerate(learn.model.parameters()) if i != 1]
    learn.model.zero_grad()
    with pytest.warns(RuntimeWarning, match=r"leaves out 0\.bias"):
        learn.fit(1)
    assert clip.norm.item() == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in grads)), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_an_error(value):
    batches = [(torch.ones(1, 1), torch.ones(1, 1)), (torch.full((1, 1), value), torch.ones(1, 1))]
    learn = Learner(nn.Linear(1, 1), {"train": batches}, nn.functional.mse_loss, cbs=ClipGradientCallback(1.0))
    with pytest.raises(LearnerError, match=r"must be finite to be clipped, got (nan|inf) in epoch 0, loader 'train'"):
        learn.fit(1)
    learn.dls = {"train": batches[:1]}
    learn.model = nn.Linear(1, 1)
    learn.predictor.model, learn.opt = learn.model, None
    learn.fit(1)  # a new fit forgets it


def skip_if_nan(learn):
    if learn.loss.isnan():
        learn.zero_grad()
        raise CancelStepException


class NoStep(Callback):
    """Own the step and change no weight, so that later gradients are good again."""

    def step(self, learn):
        pass


def test_one_bad_norm_among_good_ones_is_found_unless_its_step_was_skipped():
    good, bad = (torch.ones(1, 1), torch.ones(1, 1)), (torch.full((1, 1), math.nan), torch.ones(1, 1))
    learn = Learner(
        nn.Linear(1, 1), {"train": [good, bad, good]}, nn.functional.mse_loss, cbs=ClipGradientCallback(1.0)
    )
    learn.fit(1, cbs=LambdaCallback(after_backward=skip_if_nan))
    assert learn.n_steps == 2
    with pytest.raises(LearnerError, match="got nan in epoch 0"):
        learn.fit(1, cbs=NoStep())


def test_it_starts_without_a_norm(make_learner):
    clip = ClipGradientCallback(1.0)
    learn = make_learner(clip)
    learn.fit(1)
    learn.fit(0)
    assert clip.norm is None


@pytest.mark.parametrize(
    ("max_norm", "error", "match"),
    [
        (0, ValueError, r"above 0, got 0\.0"),
        (-1.5, ValueError, r"above 0, got -1\.5"),
        (math.nan, ValueError, "above 0, got nan"),
        ("1", TypeError, "a number, got '1'"),
        (None, TypeError, "a number, got None"),
        (True, TypeError, "a number, got True"),
    ],
)
def test_max_norm_must_be_a_number_above_0(max_norm, error, match):
    with pytest.raises(error, match=f"`max_norm` must be {match}"):
        ClipGradientCallback(max_norm)
