"""Overfitting on a part, against a hand-written loop over the first batches."""

import contextlib
import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacks import LambdaCallback, OverfitCallback, SchedulerCallback
from learner import BatchLimit, CancelEpochException, CancelFitException, Learner, Loaders

LINE = "this fit sees only a part of the data: train 2 of 3 batches, valid 1 of 2\n"


class Noisy(Dataset):
    """40 points with noise that is drawn anew whenever they are read."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        x = i / 40 + 0.1 * torch.randn(4)
        return x, x.sum(0, keepdim=True)


def noisy(n_workers=0):
    return DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=n_workers)


class Recorder:
    """Keep every batch, by epoch and loader."""

    def __init__(self):
        self.seen = {}

    def before_batch(self, learn):
        self.seen.setdefault((learn.dl_name, learn.epoch), []).append(learn.batch[0].clone())

    def after_batch(self, learn):
        learn.batch[0].zero_()  # as if something had changed the batch in place


@pytest.mark.parametrize("n_workers", [0, 2])
def test_all_epochs_see_the_same_batches(n_workers):
    dls = {"train": noisy(n_workers), "valid": noisy(), "valid2": noisy()}
    recorder = Recorder()
    learn = Learner(nn.Linear(4, 1), dls, nn.functional.mse_loss, lr=0.01, cbs=recorder)
    learn.fit(3, cbs=OverfitCallback(train=3, valid2=0.2))
    for name, n in {"train": 3, "valid": 1, "valid2": 2}.items():
        first = recorder.seen[name, 0]
        assert len(first) == n
        for epoch in (1, 2):
            assert len(recorder.seen[name, epoch]) == n
            assert all(map(torch.equal, recorder.seen[name, epoch], first))


def test_it_equals_a_hand_written_loop(make_learner):
    learn, reference = make_learner(), make_learner()
    opt = torch.optim.SGD(reference.model.parameters(), lr=0.1)
    torch.manual_seed(5)
    batches = list(itertools.islice(reference.dls.train, 2))
    for _ in range(4):
        for x, y in batches:
            nn.functional.cross_entropy(reference.model(x), y).backward()
            opt.step()
            opt.zero_grad()
    torch.manual_seed(5)
    learn.fit(4, cbs=OverfitCallback(train=2))
    for p, q in zip(learn.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(p, q)
    with torch.no_grad():
        x, y = next(iter(reference.dls.valid))
        assert learn.metrics["valid"]["loss"] == pytest.approx(nn.functional.cross_entropy(learn.model(x), y).item())


def test_one_batch_is_learnt_by_heart(make_learner):
    """The classes overlap: on all the data the loss cannot go to 0, on one batch it must."""
    part, whole = make_learner(opt_func=torch.optim.Adam), make_learner(opt_func=torch.optim.Adam)
    part.fit(300, cbs=OverfitCallback())
    whole.fit(100)  # as many steps
    assert part.n_steps == whole.n_steps == 300
    assert part.metrics["train"]["loss"] < 5e-3 < 0.05 < whole.metrics["train"]["loss"]


def test_a_line_says_what_the_fit_sees(make_learner, capsys):
    make_learner().fit(3, cbs=OverfitCallback(train=2))
    assert capsys.readouterr() == (LINE, "")


def test_a_sandbox_is_limited_and_silent(make_learner, capsys):
    learn = make_learner(OverfitCallback(train=2))
    with learn.sandbox():
        learn.fit(3)
        assert learn.n_steps == 6
    assert capsys.readouterr().out == ""
    learn.lr_find(n=10, plot=False)
    assert capsys.readouterr().out == ""


def test_others_count_the_batches_that_there_are(make_learner):
    schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1))
    counts = []
    count = LambdaCallback(before_batch=lambda learn: counts.append((learn.dl_name, learn.n_batches)))
    learn = make_learner([schedule, count])
    learn.fit(5, cbs=OverfitCallback(train=2))
    assert (schedule.scheduler.total_steps, learn.n_steps) == (10, 10)
    assert counts == [("train", 2), ("train", 2), ("valid", 1)] * 5


def test_a_pass_within_the_fit_sees_the_part_and_one_outside_the_whole(make_learner):
    n_inside, n_all = [], []
    count = LambdaCallback(before_batch=lambda learn: n_all.append(learn.i))

    def validate(learn):
        if learn.training:
            n_all.clear()
            learn.validate()
            n_inside.append(len(n_all))

    learn = make_learner([count, OverfitCallback()])
    learn.fit(1, cbs=LambdaCallback(after_epoch=validate))
    assert n_inside == [1]
    n_all.clear()
    learn.validate()
    assert n_all == [0, 1]


def stop_with(error):
    def stop(learn):
        raise error("on purpose")

    return stop


@pytest.mark.parametrize("signal", ["before_fit", "before_epoch", "after_loss", "after_fit", "cleanup_fit"])
@pytest.mark.parametrize("error", [CancelFitException, CancelEpochException, KeyError, KeyboardInterrupt])
def test_the_loaders_are_put_back_however_the_fit_ends(make_learner, dls, error, signal):
    cb = OverfitCallback()
    learn = make_learner([cb, LambdaCallback(**{signal: stop_with(error)})])
    with contextlib.suppress(error):
        learn.fit(2)
    assert learn.dls is dls
    assert vars(cb) == {"limits": {}, "_whole": None}  # holds no data


def test_the_loaders_are_put_back_when_all_goes_well(make_learner, dls):
    learn = make_learner()
    learn.fit(1, cbs=OverfitCallback())
    assert learn.dls is dls
    learn.fit(1)
    assert learn.n_steps == 1 + 3


def test_each_fit_fetches_anew_but_a_limited_loader_stays():
    cb, kept = OverfitCallback(train=2), BatchLimit(noisy(), 2)
    for train, is_same in ((noisy(), False), (kept, True)):
        recorders = [Recorder(), Recorder()]
        for recorder in recorders:
            Learner(nn.Linear(4, 1), {"train": train}, nn.functional.mse_loss, 0.01, cbs=[cb, recorder]).fit(1)
        one, two = (recorder.seen["train", 0] for recorder in recorders)
        assert all(map(torch.equal, one, two)) == is_same


def test_a_stream_may_be_limited(capsys):
    def batches():
        for i in itertools.count(1):
            yield torch.full((2, 1), 1 / i), torch.ones(2, 1)

    learn = Learner(nn.Linear(1, 1), {"train": batches()}, nn.functional.mse_loss, cbs=OverfitCallback(train=3))
    learn.fit(2)
    assert learn.n_steps == 6
    assert capsys.readouterr().out == "this fit sees only a part of the data: train 3 of ? batches\n"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"valid2": 1}, r"`valid2` must be the name of a loader .* only 'train', 'valid'; leave it out"),
        ({"train": 0.5}, "`train` must be a whole number of batches where the loader has no length, got the fraction"),
    ],
)
def test_what_does_not_fit_the_loaders_is_an_error_before_anything_is_changed(make_learner, capsys, limits, message):
    dls = Loaders({"train": iter([(torch.ones(1, 4), torch.zeros(1, dtype=torch.long))]), "valid": []})
    learn = make_learner(dls=dls)
    with pytest.raises(ValueError, match=message):
        learn.fit(1, cbs=OverfitCallback(**limits))
    assert learn.dls is dls
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n", [0, -1, 1.5, float("nan")])
def test_a_limit_out_of_range_is_refused_at_once(n):
    with pytest.raises(ValueError, match="`valid` must be a whole number of batches, at least 1, or a fraction of"):
        OverfitCallback(train=1, valid=n)


@pytest.mark.parametrize("n", [True, "3", None])
def test_a_limit_that_is_no_number_is_refused_at_once(n):
    with pytest.raises(TypeError, match="`train` must be a whole number of batches, at least 1, or a fraction of"):
        OverfitCallback(train=n)


def test_a_name_without_a_role_is_refused_at_once():
    with pytest.raises(ValueError, match="a loader's name must start with 'train'"):
        OverfitCallback(other=1)
