"""Epochs of so many batches of a long or endless loader; fits of so many optimizer steps."""

from functools import partial
from itertools import chain, count, islice

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    AccumulateCallback,
    CheckpointCallback,
    EpochLengthCallback,
    LambdaCallback,
    MetricsCallback,
    SchedulerCallback,
    ValidateCallback,
)
from learner import Callback, CancelStepException, Learner, LearnerError, PostponeStepException
from tests.resuming import (
    assert_equal_runs,
    resumed,
    resumed_from_each,
    seed_all,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)


class Endless:
    """Batches that never end, and have no length."""

    def __iter__(self):
        return ((torch.full((2, 1), float(i)), torch.ones(2, 1)) for i in count())


def numbered(n: int, name: str = "train") -> dict:
    return {name: [(torch.full((2, 1), float(i)), torch.ones(2, 1)) for i in range(n)]}


def learner(dls, *cbs, lr=1e-6) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(1, 1), dls, mse_loss, lr, cbs=list(cbs))


def recorded(seen: list, role: str = "train") -> LambdaCallback:
    def note(learn):
        if learn.role == role:
            seen.append(int(learn.xb[0]))

    return LambdaCallback(after_batch=note)


# -- epochs -----------------------------------------------------------------------------------------------------------


def test_training_goes_on_over_epochs_passes_and_fits_and_validation_is_on_the_same():
    seen, valid = [], []
    learn = learner({**numbered(5), **numbered(4, "valid")}, EpochLengthCallback(train=3, valid=2))
    learn.add_cb([recorded(seen), recorded(valid, "valid")])
    learn.fit(3)
    learn.fit(2)
    assert seen == list(islice(chain.from_iterable(range(5) for _ in count()), 15))
    assert valid == [0, 1] * 5
    assert [row["epoch"] for row in learn.history] == [0, 1, 2, 3, 4]
    assert len(learn.dls["train"]) == 5  # as it was


def test_an_endless_loader_equals_the_loop_by_hand():
    class Noise:
        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            return ((x, 2 * x) for x in iter(lambda: torch.rand(4, 1, generator=generator), None))

    learn = learner({"train": Noise()}, EpochLengthCallback(train=7), lr=0.1)
    learn.fit(3)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in islice(Noise(), 21):
        mse_loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    assert torch.equal(learn.model.weight, model.weight)
    assert learn.n_steps == 21


def test_schedules_count_the_epochs_as_they_are():
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    learn = learner({"train": Endless()}, EpochLengthCallback(train=6), AccumulateCallback(4), schedule)
    learn.fit(3)
    assert (schedule.scheduler.total_steps, learn.n_steps) == (6, 6)


def test_lr_find_does_not_move_the_training():
    seen, dls = [], numbered(5)
    learn = learner(dls, EpochLengthCallback(train=3), recorded(seen))
    learn.fit(1)
    before = len(seen)
    learn.lr_find(n=4, plot=False)
    del seen[before:]
    learn.fit(1)
    assert seen == [0, 1, 2, 3, 4, 0]


def test_shuffled_data_comes_once_in_each_pass():
    data = TensorDataset(torch.arange(12.0)[:, None], torch.ones(12, 1))
    seen = []
    learn = learner({"train": DataLoader(data, batch_size=3, shuffle=True)}, EpochLengthCallback(train=2))
    learn.add_cb(LambdaCallback(after_batch=lambda learn: seen.extend(learn.xb.flatten().int().tolist())))
    learn.fit(4)
    assert [sorted(seen[:12]), sorted(seen[12:])] == [list(range(12))] * 2
    assert seen[:12] != seen[12:]


@pytest.mark.parametrize("n", [2, 4, 9])
def test_it_goes_on_from_each_batch_bit_for_bit(tmp_path, n):
    def make(cbs):
        cbs = [*cbs, EpochLengthCallback(train=n, valid=2), SchedulerCallback(CosineAnnealingLR), MetricsCallback()]
        return tiny_learner(cbs)

    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    assert len(gone_on) >= 3 * n
    for learn in gone_on:
        assert_equal_runs(learn, whole)


def test_save_and_load_keep_the_place(tmp_path):
    seen = []
    learn, other = (learner(numbered(5), EpochLengthCallback(train=3), recorded(seen)) for _ in range(2))
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    other.fit(1)
    assert seen == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("n", "error"),
    [
        ({}, "must be told how many batches"),
        ({"train": 0}, "`train` must be a whole number of batches, at least 1, got 0"),
        ({"train": -3}, "got -3"),
        ({"train": 0.5}, "got 0.5"),
        ({"train": True}, "got True"),
        ({"rain": 3}, "must begin with|rain"),
    ],
)
def test_bad_lengths(n, error):
    with pytest.raises((TypeError, ValueError), match=error):
        EpochLengthCallback(**n)


def test_a_loader_that_is_not_there():
    learn = learner(numbered(2))
    with pytest.raises(ValueError, match=r"`valid` must be the name of a loader, one of \['train'\]"):
        learn.fit(1, cbs=EpochLengthCallback(valid=3))
    assert type(learn.dls["train"]) is list


def test_an_iterator_that_is_used_up_is_an_error():
    learn = learner({"train": iter(numbered(5)["train"])}, EpochLengthCallback(train=3))
    with pytest.raises(LearnerError, match="it is an iterator, which is used up"):
        learn.fit(2)


# -- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_accumulated", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 11])
def test_so_many_steps_exactly_over_as_many_epochs_as_it_takes(steps, n_accumulated):
    schedule = SchedulerCallback(partial(CosineAnnealingLR, eta_min=0.0))
    dls = {**numbered(5), **numbered(2, "valid")}
    learn = learner(dls, AccumulateCallback(n_accumulated), schedule)
    learn.fit(steps=steps)
    per_epoch = -(-5 // n_accumulated)  # the last window of a pass may be shorter
    assert learn.n_steps == steps
    assert len(learn.history) == -(-steps // per_epoch)
    assert all({"train/loss", "valid/loss"} <= set(row) and "cut_short" not in row for row in learn.history)
    assert schedule.scheduler.last_epoch == steps
    assert learn.opt.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    learn.fit(steps=2)  # counts from here
    assert learn.n_steps == steps + 2


def test_an_endless_loader_ends_at_the_last_step():
    learn = learner({"train": Endless(), "valid": Endless()}, EpochLengthCallback(valid=2))
    learn.fit(steps=7)
    assert (learn.n_steps, learn.n_samples, len(learn.history)) == (7, 14, 1)


def test_a_second_training_loader_that_has_nothing_left_to_do_is_passed_over():
    learn = learner({**numbered(3), **numbered(3, "train2"), **numbered(1, "valid")})
    learn.fit(steps=3)
    assert list(learn.history[0]) == ["epoch", "train/loss", "valid/loss"]
    learn.fit(steps=4)
    assert list(learn.history[1]) == ["epoch", "train/loss", "train2/loss", "valid/loss"]


def test_a_row_of_history_for_each_validation():
    learn = learner({"train": Endless(), **numbered(9, "valid")}, EpochLengthCallback(train=4, valid=2))
    learn.fit(steps=10)
    assert [row["epoch"] for row in learn.history] == [0, 1, 2]
    assert learn.n_steps == 10


def test_skipped_steps_do_not_count_and_none_at_all_is_an_error():
    class SkipEverySecond(Callback):
        def after_backward(self, learn):
            if learn.i % 2:
                raise CancelStepException

    class SkipFirst(Callback):
        def after_backward(self, learn):
            if learn.n_skipped < 9:
                raise CancelStepException

    class SkipAll(Callback):
        def after_backward(self, learn):
            raise CancelStepException

    class Postpone(Callback):
        def after_backward(self, learn):
            raise PostponeStepException

    learn = learner(numbered(4), SkipEverySecond())
    learn.fit(steps=5)
    assert (learn.n_steps, learn.n_skipped) == (5, 4)
    learn = learner(numbered(4), SkipFirst())  # as half precision does until it has found its scale
    learn.fit(steps=2)
    assert (learn.n_steps, learn.n_skipped) == (2, 9)
    with pytest.raises(LearnerError, match="epoch 24 made no optimizer step of the 3 that are left"):
        learner(numbered(4), SkipAll()).fit(steps=3)
    error = pytest.raises(LearnerError, match="epoch 0 made no optimizer step of the 3 that are left")
    with error, pytest.warns(RuntimeWarning, match="it was put off for each"):
        learner(numbered(4), Postpone()).fit(steps=3)


@pytest.mark.parametrize("length", [{"train": 4}, {}])
def test_steps_go_on_from_each_batch_bit_for_bit(tmp_path, length):
    def make(cbs):
        epochs = [EpochLengthCallback(**length)] if length else []
        return tiny_learner([*cbs, *epochs, AccumulateCallback(2), SchedulerCallback(CosineAnnealingLR)])

    whole, gone_on = resumed_from_each(make, {"steps": 7}, tmp_path)
    assert whole.n_steps == 7
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    for n in (6, 7, 8):  # within a validation
        learn = stopped_and_resumed(make, {"steps": 7}, n, tmp_path / f"after-{n}", "epoch", by_interrupt=True)
        assert_equal_runs(learn, whole)


def test_a_fit_of_steps_that_is_done_has_nothing_left_and_a_longer_one_goes_on(tmp_path, capsys):
    longer = uninterrupted(tiny_learner, {"steps": 9}, tmp_path / "longer", every="4 steps")
    uninterrupted(tiny_learner, {"steps": 6}, tmp_path / "fit", every="4 steps")
    done = resumed(tiny_learner, {"steps": 6}, tmp_path / "fit", every="4 steps")
    assert done.n_steps == 6
    assert "has all 6 steps done; nothing is left to train" in capsys.readouterr().out
    gone_on = resumed(tiny_learner, {"steps": 9}, tmp_path / "fit", every="4 steps")
    assert "where 6 steps were asked for before" in capsys.readouterr().out
    assert_equal_runs(gone_on, longer)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "must be asked for one of `n_epochs` and `steps`, got neither"),
        ({"n_epochs": 1, "steps": 1}, "got both"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"steps": -1}, "`steps` must be at least 1, got -1"),
        ({"steps": 1.5}, "`steps` must be a whole number, got 1.5"),
        ({"steps": True}, "`steps` must be a whole number, got True"),
    ],
)
def test_bad_steps(arguments, error):
    with pytest.raises((TypeError, ValueError), match=error):
        learner(numbered(2)).fit(**arguments)


# -- every so many steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_accumulated", [1, 3])
def test_every_so_many_steps_is_when_the_step_is_made(n_accumulated):
    validate = ValidateCallback(every="2 steps")
    dls = {**numbered(12), **numbered(1, "valid")}
    learn = learner(dls, AccumulateCallback(n_accumulated), validate)
    learn.fit(1)
    assert [row.n_steps for row in validate.rows] == list(range(2, 12 // n_accumulated + 1, 2))


def test_checkpoints_every_so_many_steps(tmp_path):
    seed_all(0)
    learn = learner(numbered(10), CheckpointCallback(tmp_path, every="2 steps", keep=100), AccumulateCallback(2))
    learn.fit(1)
    assert sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("*.pt")) == [4, 8, 10]
