"""The range test: what it tries, when it stops, what it suggests, and that nothing is left of it."""

import hashlib
import itertools
import math
import pickle
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    CSVLoggerCallback,
    LRFinderCallback,
    RecorderCallback,
    SchedulerCallback,
    TerminateOnNaNCallback,
)
from callbacks.train.lr_find import LRFinderResult
from learner import Callback, CancelBatchException, CancelEpochException, CancelStepException, Learner, LearnerError

LR = {"lr": lambda learn: learn.opt.param_groups[0]["lr"]}


class RaiseAt(Callback):
    def __init__(self, signal, error, n=0):
        self.n, self.error = n, error
        setattr(self, signal, self.hear)

    def hear(self, learn):
        self.n -= 1
        if self.n < 0:
            raise self.error


class Scripted(Callback):
    """Let the loss be what a list says, whatever the model does."""

    def __init__(self, losses):
        self.losses = losses

    def before_fit(self, learn):
        self.rest = iter(self.losses)

    def get_loss(self, learn):
        learn.loss = learn.preds.sum() * 0 + next(self.rest)


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def state_hash(learn):
    """Return a digest of all that a trial must not touch."""
    state = [
        [(k, v.tolist()) for k, v in learn.model.state_dict().items()],
        learn.opt and [[(k, v.tolist()) for k, v in s.items() if v is not None] for s in learn.opt.state.values()],
        learn.opt and [{k: v for k, v in group.items() if k != "params"} for group in learn.opt.param_groups],
        [p.grad is None for p in learn.model.parameters()],
        [module.training for module in learn.model.modules()],
        torch.get_rng_state().tolist(),
        [learn.dls.train.generator.get_state().tolist()],
        random.getstate(),
        np.random.get_state()[1].tolist(),
        (learn.n_steps, learn.n_samples, learn.epoch, learn.n_epochs, list(learn.epochs), learn.lr, learn.metrics),
        (learn.batches_per_step, learn.in_sandbox, learn.history.to_dict()),
        [cb.values for cb in learn.cbs if isinstance(cb, RecorderCallback)],
        [cb.scheduler and cb.scheduler.state_dict() for cb in learn.cbs if isinstance(cb, SchedulerCallback)],
    ]
    return hashlib.sha256(pickle.dumps(state)).hexdigest()


@pytest.fixture
def learn(make_learner, dls):
    """A learner with batch norm and dropout, a part of it in eval mode, and callbacks that keep things."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    model[1].eval()
    dls.train.generator = dls.train.sampler.generator = torch.Generator().manual_seed(7)
    cbs = [RecorderCallback(**LR), SchedulerCallback(partial(OneCycleLR, max_lr=0.1)), ClipGradientCallback(1.0)]
    return make_learner(cbs, model=model, opt_func=momentum)


@pytest.mark.parametrize("has_trained", [False, True])
@pytest.mark.parametrize("error", [None, KeyError("on purpose"), KeyboardInterrupt("on purpose")])
def test_nothing_is_left_of_it(learn, has_trained, error):
    if has_trained:
        learn.fit(2)
    before, opt, cbs = state_hash(learn), learn.opt, list(learn.cbs)
    if error is None:
        assert learn.lr_find(n=20, plot=False).lrs
    else:
        with learn.added(RaiseAt("after_step", error, n=5)), pytest.raises(type(error), match="on purpose"):
            learn.lr_find(plot=False)
    assert state_hash(learn) == before
    assert learn.opt is opt
    assert [a is b for a, b in zip(learn.cbs, cbs, strict=True)] == [True] * 3
    learn.fit(1)  # with its schedule


def test_training_goes_on_as_if_it_had_not_been(dls, make_learner):
    learners = [make_learner(opt_func=momentum) for _ in range(2)]
    for learn in learners:
        torch.manual_seed(3)
        learn.fit(1)
        if learn is learners[0]:
            learn.lr_find(plot=False)
        learn.fit(1)
    assert torch.equal(learners[0].model[0].weight, learners[1].model[0].weight)


def test_rates_rise_evenly_on_a_logarithmic_scale_from_step_to_step(make_learner):
    recorder = RecorderCallback(**LR)
    learn = make_learner(recorder)
    learn.fit(1, cbs=LRFinderCallback(1e-4, 1e-2, n=11))
    np.testing.assert_allclose(recorder.values["lr"], np.geomspace(1e-4, 1e-2, 11), rtol=1e-12)
    np.testing.assert_allclose(learn.lr_find(1e-4, 1e-2, 11, plot=False).lrs, np.geomspace(1e-4, 1e-2, 11), rtol=1e-12)


def test_a_loss_belongs_to_the_rate_of_the_step_that_follows_it(make_learner, dls):
    """Against a loop by hand over the same batches."""
    batches = list(dls.train)
    learn, reference = make_learner(dls={"train": batches}), make_learner().model
    result = learn.lr_find(0.001, 1.0, n=8, stop_at=math.inf, plot=False)
    losses = []
    for lr, (x, y) in zip(np.geomspace(0.001, 1.0, 8), itertools.cycle(batches)):
        loss = nn.functional.cross_entropy(reference(x), y)
        losses.append(loss.item())
        reference.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in reference.parameters():
                p -= lr * p.grad
    assert result.losses == pytest.approx(losses, rel=1e-5)  # rates differ in the last bit


def test_parameter_groups_keep_their_proportion(make_learner):
    def opt_func(params, lr):
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": torch.tensor(lr / 10)}]
        return torch.optim.SGD(groups, lr=lr, foreach=False)

    recorder = RecorderCallback(a=LR["lr"], b=lambda learn: learn.opt.param_groups[1]["lr"])
    learn = make_learner(recorder, opt_func=opt_func)
    learn.fit(1, cbs=LRFinderCallback(1e-4, 1e-2, n=5))
    expected = np.geomspace(1e-4, 1e-2, 5)
    np.testing.assert_allclose(recorder.values["a"], expected)
    np.testing.assert_allclose(recorder.values["b"], expected / 10, rtol=1e-6)  # a float32 tensor
    assert isinstance(learn.opt.param_groups[1]["lr"], torch.Tensor)


def test_only_training_loaders_run_and_without_a_length_too(make_learner, dls):
    class Stream:
        def __iter__(self):
            return iter(dls.train)

    seen = []

    class Look(Callback):
        def after_predict(self, learn):
            seen.append(learn.dl_name)

    learn = make_learner(Look(), dls={"train": Stream(), "valid": dls.valid, "train2": list(dls.valid)})
    assert len(learn.lr_find(n=12, plot=False).lrs) == 12
    assert seen == ["train"] * 3 + ["train2"] * 2 + ["train"] * 3 + ["train2"] * 2 + ["train"] * 2


def test_a_validation_within_the_training_pass_and_one_beside_the_fit_do_run(make_learner):
    seen = []

    class Validate(Callback):
        def after_epoch(self, learn):
            if learn.training:
                seen.append(learn.validate())

    learn = make_learner(Validate())
    learn.lr_find(n=6, plot=False)
    assert "loss" in seen[0]
    finder = LRFinderCallback(n=3)
    with learn.added(finder):
        learn.fit(1)
        assert "loss" in learn.validate()


def test_a_batch_without_a_loss_leaves_no_trace(make_learner):
    class Skip(Callback):
        def after_predict(self, learn):
            if learn.i == 1:
                raise CancelStepException

    result = make_learner([Scripted([1.0, 3.0, 5.0]), Skip()]).lr_find(n=3, stop_at=9, plot=False)
    assert result.losses == pytest.approx([1.0, 3.0, 5.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_stops_at_a_loss_that_is_not_finite(make_learner, bad):
    result = make_learner(Scripted([1.0, 0.9, 0.8, bad])).lr_find(plot=False)
    assert result.losses == pytest.approx([1.0, 0.9, 0.8])
    assert len(result.lrs) == 3


def test_no_other_callback_meets_that_loss(make_learner):
    cbs = [Scripted([1.0, math.nan]), TerminateOnNaNCallback(every=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(make_learner(cbs).lr_find(plot=False).lrs) == 1


@pytest.mark.parametrize(
    ("losses", "n_expected"),
    [
        # one 20 weighs 0.1 / (1 - 0.9**11) = 0.146 in the running mean: 1 + 19 * 0.146 < 4, two are enough
        ([1.0] * 10 + [20.0] * 90, 12),
        ([1.0] * 10 + [3.9] * 90, 100),
        # below 0, where 4 times the lowest would be lower still, the limit is as far above: -1 + 3
        ([-1.0] * 100, 100),
        ([-1.0] * 10 + [20.0] * 90, 11),
        ([-1.0] * 10 + [1.9] * 90, 100),
    ],
)
def test_it_stops_when_the_loss_diverges(make_learner, losses, n_expected):
    assert len(make_learner(Scripted(losses)).lr_find(plot=False).losses) == n_expected


def test_a_real_divergence_ends_it_early(make_learner):
    result = make_learner(loss_f=lambda preds, y: (preds**2).sum()).lr_find(plot=False)
    assert len(result.lrs) < 100
    assert math.isfinite(max(result.losses))


def test_the_suggestion_is_half_the_rate_of_steepest_descent():
    """A logistic fall around 0.1 is steepest there."""
    lrs = np.geomspace(1e-6, 10, 100)
    losses = 1 + 2 / (1 + (lrs / 0.1) ** 1.5)
    diverging = np.where(lrs > 2, 50, losses)
    falling_again = np.where(lrs > 5, 10, diverging)
    for values in (losses, diverging, falling_again):
        result = LRFinderResult(lrs.tolist(), values.tolist())
        assert result.suggestion == pytest.approx(0.05, rel=0.1)  # one of the rates tried, 18 % apart


def test_smoothing_shifts_nothing():
    lrs = np.geomspace(1e-3, 1, 31)
    losses = np.log(lrs) ** 2
    smoothed = LRFinderResult(lrs.tolist(), losses.tolist()).smoothed
    # away from the ends a parabola is raised everywhere by the same amount, the variance of the kernel
    raised = (np.array(smoothed) - losses)[10:21]
    np.testing.assert_allclose(raised, 0.25, rtol=0.01)


@pytest.mark.parametrize(
    "losses",
    [[], [1.0], [3.0, 2.0, 1.0, 0.5], [1.0] * 50, list(range(50)), np.random.default_rng(0).normal(1, 0.1, 100)],
    ids=["none", "one", "four", "constant", "rising", "noise"],
)
def test_where_nothing_can_be_seen_there_is_no_suggestion(losses):
    result = LRFinderResult(np.geomspace(1e-6, 1, max(len(losses), 1)).tolist()[: len(losses)], list(losses))
    assert result.suggestion is None
    assert repr(result) == f"LRFinderResult(suggestion=None, {len(losses)} steps)"
    plt.close(result.plot())


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, momentum, torch.optim.Adam])
def test_training_with_the_suggestion_is_better_than_with_far_less_or_far_more(make_learner, opt_func):
    def loss_after(lr):
        learn = make_learner(opt_func=opt_func)
        learn.fit(3, lr=lr)
        return learn.validate("train")["loss"]

    suggestion = make_learner(opt_func=opt_func).lr_find(plot=False).suggestion
    assert loss_after(suggestion) < min(loss_after(suggestion / 100), loss_after(suggestion * 1000))


def test_a_schedule_is_left_out(make_learner):
    recorder = RecorderCallback(**LR, momentum=lambda learn: learn.opt.param_groups[0]["momentum"])
    values = {}

    class Keep(Callback):
        def cleanup_fit(self, learn):
            values.update(recorder.values)

    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    learn = make_learner([schedule, recorder, Keep()], opt_func=momentum)
    result = learn.lr_find(n=20, plot=False)
    assert values["lr"] == result.lrs
    assert set(values["momentum"]) == {0.9}
    assert learn.cbs[0] is schedule


def test_beside_a_schedule_the_callback_alone_is_an_error(make_learner):
    learn = make_learner(SchedulerCallback(partial(OneCycleLR, max_lr=0.1)))
    with pytest.raises(LearnerError, match=r"`cbs` must hold no SchedulerCallback while .* call `learn\.lr_find\(\)`"):
        learn.fit(1, cbs=LRFinderCallback())


def test_with_accumulation_the_batches_of_a_step_share_its_rate(make_learner, dls):
    """Three batches of 16, 16 and 8, two to a step: the second step of a round is made when the pass has ended."""
    learn = make_learner(AccumulateCallback(2), dls={"train": list(dls.train)})
    recorder = RecorderCallback(**LR)
    model = make_learner().model
    finder = LRFinderCallback(1e-9, 1e-8, n=5)  # the weights stay as they are, nearly
    learn.fit(1, cbs=[recorder, finder])
    lrs = np.geomspace(1e-9, 1e-8, 5)
    np.testing.assert_allclose(finder.result.lrs, lrs)
    np.testing.assert_allclose(recorder.values["lr"], lrs[[0, 0, 1, 2, 2, 3, 4, 4]])
    (x0, y0), (x1, y1), (x2, y2) = learn.dls.train
    first = nn.functional.cross_entropy(model(torch.cat([x0, x1])), torch.cat([y0, y1])).item()
    second = nn.functional.cross_entropy(model(x2), y2).item()
    assert finder.result.losses == pytest.approx([first, second, first, second, first], rel=1e-5)


@pytest.mark.parametrize("signal", ["before_batch", "after_predict", "after_loss", "after_backward"])
@pytest.mark.parametrize("error", [CancelStepException, CancelBatchException, CancelEpochException])
def test_it_ends_even_if_no_step_is_ever_made(make_learner, signal, error):
    learn = make_learner(RaiseAt(signal, error()), dls={"train": [(torch.ones(2, 4), torch.tensor([0, 1]))]})
    result = learn.lr_find(n=10, plot=False)
    assert (result.lrs, result.suggestion) == ([], None)


def test_it_writes_no_files(make_learner, tmp_path):
    make_learner(CSVLoggerCallback(tmp_path / "log.csv")).lr_find(n=5, plot=False)
    assert list(tmp_path.iterdir()) == []


def test_it_draws_losses_and_suggestion(make_learner):
    figures = plt.get_fignums()
    result = make_learner().lr_find()
    assert len(plt.get_fignums()) == len(figures) + 1
    (ax,) = plt.gcf().axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["loss", "smoothed", f"suggestion {result.suggestion:.2g}"]
    assert ax.lines[0].get_xdata().tolist() == result.lrs
    assert ax.lines[0].get_ydata().tolist() == result.losses
    assert ax.get_xscale() == "log"
    plt.close()
    make_learner().lr_find(n=5, plot=False)
    assert plt.get_fignums() == figures


def test_in_a_running_fit_it_is_an_error(make_learner):
    class Find(Callback):
        def after_batch(self, learn):
            learn.lr_find(plot=False)

    with pytest.raises(LearnerError, match="`fit` must not be called while this learner runs"):
        make_learner(Find()).fit(1)


def test_the_callback_starts_each_fit_anew(make_learner):
    finder = LRFinderCallback(n=7)
    learn = make_learner(finder)
    for _ in range(2):
        learn.fit(1)
        assert len(finder.result.lrs) == 7


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"start": 0.0}, "rising rates above 0, got 0.0 and 10"),
        ({"start": 1.0, "end": 0.1}, "rising rates above 0, got 1.0 and 0.1"),
        ({"end": math.inf}, "rising rates above 0"),
        ({"start": math.nan}, "rising rates above 0"),
        ({"n": 1}, "`n` must be at least 2 steps, got 1"),
        ({"stop_at": 1.0}, r"`stop_at` must be above 1, got 1\.0"),
    ],
)
def test_wrong_arguments_are_refused(make_learner, arguments, match):
    with pytest.raises(ValueError, match=match):
        make_learner().lr_find(**arguments)
    with pytest.raises(TypeError, match="float"):
        LRFinderCallback(n=10.5)


def test_it_is_documented_where_a_person_looks():
    assert "sandbox" in Learner.lr_find.__doc__


def test_a_rate_that_another_callback_sets_is_refused(make_learner):
    class Warmup(Callback):
        def before_batch(self, learn):
            for group in learn.opt.param_groups:
                group["lr"] = 1e-5 * (learn.n_steps + 1)

    with pytest.raises(LearnerError, match=r"`lr` of the optimizer must be left to LRFinderCallback.*with 1e-05"):
        make_learner(Warmup()).lr_find(plot=False)


def test_a_group_with_a_rate_of_its_own_keeps_its_proportion_before_the_first_fit(make_learner):
    def opt_func(params, lr):
        first, *rest = params
        return torch.optim.SGD([{"params": rest}, {"params": [first], "lr": 0.01}], lr=lr)

    shares = RecorderCallback(share=lambda learn: learn.opt.param_groups[1]["lr"] / learn.opt.param_groups[0]["lr"])
    with (learn := make_learner(opt_func=opt_func, lr=0.1)).added(shares), learn.sandbox():
        learn.fit(1, lr=1e-6, cbs=LRFinderCallback(n=5))
        assert shares.values["share"] == pytest.approx([0.1] * len(shares.values["share"]))
