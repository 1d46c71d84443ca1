"""To go back to a batch of a run: what is there then, to the last bit, and what is there afterwards."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks import (
    AccumulateCallback,
    ActivationStats,
    CheckpointCallback,
    ClipGradientCallback,
    CollectCallback,
    CSVLoggerCallback,
    ProgressCallback,
    RecorderCallback,
    RunCallback,
    SchedulerCallback,
)
from learner import Callback, Learner, LearnerError, Loaders
from learner.records import Run
from tests.resuming import assert_equal_runs, differing, seed_all
from tests.rewinding import SETTINGS, Spy, length_of, listing, make, seen_by, state_of


@pytest.mark.parametrize("name", SETTINGS)
def test_each_batch_is_found_as_the_run_found_it(name, tmp_path):
    """Weights, optimizer, gradients of an open window, batch, random generators, counters: to the last bit."""
    setting = SETTINGS[name]
    whole, spy = make(setting, tmp_path, every=5)
    whole.fit(**length_of(setting))
    files = listing(tmp_path)
    numbers = random.Random(name).sample(range(5, len(spy.found)), 4)
    learn, other = make(setting, tmp_path)
    other.is_on = False
    seed_all(7)
    before = state_of(learn)
    for number in numbers:
        epoch, i, n_steps, *_ = spy.found[number]["at"]
        with learn.rewind(tmp_path, epoch=epoch, i=i) as then:
            assert differing(seen_by(learn, then.batch, then.epoch, then.i), spy.found[number]) == []
            assert (then.epoch, then.i, then.n_steps, then.is_over) == (epoch, i, n_steps, False)
            then.run()
            torch.rand(3)
            k = min(2, len(spy.found) - 1 - number)
            if k:
                then.advance(k)
                assert differing(seen_by(learn, then.batch, then.epoch, then.i), spy.found[number + k]) == []
        assert differing(state_of(learn), before) == []
    with learn.rewind(tmp_path, epoch=epoch, i=i) as then:
        then.advance(len(spy.found) - number)
        assert (then.is_over, then.batch, then.ids) == (True, None, None)
        assert_equal_runs(learn, whole)
    assert listing(tmp_path) == files


def numbered(cbs, n_epochs=None, lr=0.05):
    """Return a learner whose samples are their own numbers, 22 of them in batches of 4; it has dropout."""
    seed_all(0)
    x = torch.arange(22.0)[:, None]
    dls = Loaders.from_arrays(train=(x, x / 22), valid=(x[:6], x[:6] / 22), batch_size=4)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    return Learner(model, dls, nn.functional.mse_loss, lr, torch.optim.Adam, cbs)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of checkpoints, one for each of 2 epochs of 6 batches."""
    numbered(CheckpointCallback(tmp_path / "run")).fit(2)
    return tmp_path / "run"


@pytest.fixture
def learn(folder):
    return numbered(CheckpointCallback(folder))


def test_it_stands_at_twenty_steps_and_goes_on_from_each(tmp_path):
    cbs = [CheckpointCallback(tmp_path, every=7, keep=100), Spy(), AccumulateCallback(2)]
    whole = numbered(cbs)
    whole.fit(8)
    first_of = {}
    for found in cbs[1].found:
        first_of.setdefault(found["at"][2], found)
    learn = numbered([CheckpointCallback(tmp_path), Spy(), AccumulateCallback(2)])
    learn.cbs[1].is_on = False
    for step in random.Random(0).sample(range(4, 24), 20):
        with learn.rewind(tmp_path, step=step) as then:
            assert differing(seen_by(learn, then.batch, then.epoch, then.i), first_of[step]) == []


def test_the_samples_of_the_batch_are_known(learn, folder):
    with learn.rewind(folder, step=8) as then:
        assert then.ids.tolist() == then.batch[0].flatten().tolist()
        then.advance()
        assert then.ids.tolist() == then.batch[0].flatten().tolist()


def test_samples_that_name_themselves_are_known_and_else_there_are_none(tmp_path):
    def learner(batches, cbs):
        return Learner(nn.Linear(1, 1), {"train": batches}, nn.functional.mse_loss, cbs=cbs)

    pairs = [(torch.ones(2, 1), torch.ones(2, 1))] * 3
    named = [{"input": x, "target": y, "example_id": torch.tensor([5, i])} for i, (x, y) in enumerate(pairs)]
    for kind, batches, ids in (("pairs", pairs, None), ("named", named, [5, 1])):
        learner(batches, CheckpointCallback(tmp_path / kind, every=1)).fit(1)
        with learner(batches, CheckpointCallback(tmp_path / kind)).rewind(tmp_path / kind, step=1) as then:
            assert (None if then.ids is None else then.ids.tolist()) == ids


def test_of_a_sampler_of_names_nobody_knows_the_numbers(tmp_path):
    class ByName:
        def __len__(self):
            return 6

        def __getitem__(self, name):
            return torch.tensor([float(name)]), torch.tensor([float(name)])

    def learner():
        loader = DataLoader(ByName(), sampler=["1", "2", "3", "4", "5", "6"], batch_size=2)
        dls, cbs = {"train": loader, "valid": loader}, CheckpointCallback(tmp_path)
        return Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)

    learner().fit(2)
    with learner().rewind(tmp_path, step=4) as then:
        assert then.ids is None
    futures = learner().branch(tmp_path, step=4, n_steps=1, change=lambda learn: learn.opt.param_groups[0].update(lr=0))
    assert len(futures.samples()["changed"]) == 6


def test_a_run_of_a_batch_gives_its_loss_and_gradients_as_a_loop_by_hand_does(learn, folder):
    with learn.rewind(folder, step=8) as then:
        x, y = then.batch
        loss = nn.functional.mse_loss(learn.model(x), y)  # draws the dropout that training draws
        by_hand = torch.autograd.grad(loss, list(learn.model.parameters()))
        assert torch.equal(then.run(), loss)
        assert all(torch.equal(p.grad, g) for p, g in zip(learn.model.parameters(), by_hand, strict=True))
        assert torch.equal(learn.xb, x)


def test_looking_changes_nothing_and_changing_does(learn, folder):
    def after(do):
        with learn.rewind(folder, step=8) as then:
            do(then)
            then.advance(3)
            return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()

    def look(then):
        stats = ActivationStats()
        with learn.added(stats):
            then.run()
        learn.model(then.batch[0]).sum().backward()
        learn.validate()
        learn.model.eval()
        torch.rand(5)

    def halve(then):
        learn.opt.param_groups[0]["lr"] /= 2

    def move(then):
        with torch.no_grad():
            learn.model[0].weight.add_(1)

    untouched = after(lambda then: None)
    assert torch.equal(after(look), untouched)
    assert not torch.equal(after(halve), untouched)
    assert not torch.equal(after(move), untouched)
    assert torch.equal(after(lambda then: None), untouched)


def test_a_rate_that_was_halved_trains_as_a_loop_by_hand_does(learn, folder):
    with learn.rewind(folder, step=8) as then:
        learn.opt.param_groups[0]["lr"] = 0.01
        x, y = then.batch
        copied = copy.deepcopy(learn.model)
        opt = torch.optim.Adam(copied.parameters(), lr=0.01)
        opt.load_state_dict(copy.deepcopy(learn.opt.state_dict()))
        nn.functional.mse_loss(copied(x), y).backward()
        opt.step()
        then.advance()
        for mine, theirs in zip(learn.model.parameters(), copied.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_callbacks_may_come_and_go_within_the_block(learn, folder):
    recorder, often = RecorderCallback(loss=lambda learn: learn.loss), Often()
    with learn.rewind(folder, step=8) as then:
        with learn.added([recorder, often]):
            then.advance(3)
        then.advance()
    assert len(recorder.values["loss"]) == 3
    assert often.n == 1


class Often(Callback):
    every = 2
    n = 0

    def after_batch(self, learn):
        self.n += 1


def number_of(batch, output):
    return {"number": batch[0].flatten().numpy()}


def test_nothing_is_written_or_shown_and_all_of_the_learner_is_as_before(tmp_path, capsys):
    def learner():
        run = Run.open(tmp_path / "run") if (tmp_path / "run" / "run.json").exists() else Run.create(tmp_path / "run")
        cbs = [CheckpointCallback(tmp_path / "checkpoints"), ProgressCallback(), RunCallback(run)]
        cbs += [CSVLoggerCallback(tmp_path / "log.csv"), CollectCallback(number_of, run=run)]
        return numbered(cbs)

    learn = learner()
    learn.fit(3)
    files, state = listing(tmp_path), state_of(learn)
    samples, throughput = learn.cbs[-1].samples.to_pandas(), list(learn.history.throughput)
    capsys.readouterr()
    with learn.rewind(tmp_path / "checkpoints", step=8) as then:
        then.advance(3)
        then.run()
    assert capsys.readouterr().out == ""
    assert listing(tmp_path) == files
    assert differing(state_of(learn), state) == []
    assert learn.cbs[-1].samples.to_pandas().equals(samples)
    assert learn.history.throughput == throughput


def test_it_is_put_back_after_an_error_and_an_interrupt(learn, folder):
    before, files = state_of(learn), listing(folder)
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), learn.rewind(folder, step=8) as then, learn.added(Raise(error)):
            then.advance(2)
        assert differing(state_of(learn), before) == []
        assert not learn.in_sandbox
    with pytest.raises(RuntimeError, match="mine"), learn.rewind(folder, step=8):
        raise RuntimeError("mine")
    assert differing(state_of(learn), before) == []
    assert listing(folder) == files


def test_after_an_error_within_the_block_it_stands_where_it_stood(learn, folder):
    with learn.rewind(folder, step=8) as then:
        weights = [p.detach().clone() for p in learn.model.parameters()]
        with pytest.raises(KeyError), learn.added(Raise(KeyError)):
            then.advance(3)
        assert (then.n_steps, then.i) == (8, 2)
        assert all(map(torch.equal, weights, learn.model.parameters()))


class Raise(Callback):
    def __init__(self, error):
        self.error = error

    def after_step(self, learn):
        raise self.error


def test_two_rewinds_give_the_same_also_one_within_the_other(learn, folder):
    with learn.rewind(folder, step=8) as then:
        then.advance(2)
        after = [p.detach().clone() for p in learn.model.parameters()]
        with learn.rewind(folder, step=7) as earlier:
            earlier.advance(3)
            assert all(map(torch.equal, after, learn.model.parameters()))
            assert (earlier.n_steps, then.n_steps) == (10, 10)
        assert all(map(torch.equal, after, learn.model.parameters()))


def test_a_learner_trains_on_as_if_it_had_not_looked(tmp_path):
    learners = [numbered(CheckpointCallback(tmp_path / name)) for name in "ab"]
    for learn, looks in zip(learners, (True, False), strict=True):
        seed_all(1)
        learn.fit(2)
        if looks:
            with learn.rewind(tmp_path / "a", step=8) as then:
                then.advance(2)
        learn.fit(1)
    assert_equal_runs(*learners)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, TypeError, "one of `step`, `epoch` and `at` must be given, got none"),
        ({"step": 7, "epoch": 1}, TypeError, r"one of `step`, `epoch` and `at` must be given, got \['step', 'epoch'\]"),
        ({"at": "best"}, ValueError, "`at` must be 'worst', the batch with the largest loss on record, got 'best'"),
        ({"step": 7, "i": 1}, TypeError, "`i` must go with `epoch`"),
        ({"step": 2.5}, TypeError, "`step` must be a whole number, got 2.5"),
        ({"step": True}, TypeError, "`step` must be a whole number, got True"),
        ({"step": -1}, ValueError, "`step` must be at least 0, got -1"),
        ({"epoch": 1, "i": -1}, ValueError, "`i` must be at least 0"),
        (
            {"step": 3},
            LearnerError,
            r"`step=3` must not be before the first checkpoint, step-00000006.pt, which is of st",
        ),
        ({"step": 12}, LearnerError, "`step=12` must be within the fit of .*, which ends when 12 steps are made"),
        ({"step": 99}, LearnerError, "`step=99` must be within the fit of .*, which ends when 12 steps are made"),
        ({"epoch": 1, "i": 6}, LearnerError, "`epoch=1, i=6` must be within the fit of"),
        ({"epoch": 5}, LearnerError, "`epoch=5, i=0` must be within the fit"),
    ],
)
def test_a_place_that_is_not_there_is_one_error(learn, folder, arguments, error, words):
    before = state_of(learn)
    with pytest.raises(error, match=words), learn.rewind(folder, **arguments):
        raise AssertionError
    assert differing(state_of(learn), before) == []


def test_a_batch_that_its_epoch_has_not_is_one_error(tmp_path):
    numbered(CheckpointCallback(tmp_path)).fit(3)
    learn = numbered(CheckpointCallback(tmp_path))
    with pytest.raises(LearnerError, match="`epoch=1, i=6` must be a training batch of the fit, which has none there"):
        learn.rewind(tmp_path, epoch=1, i=6).__enter__()


def test_a_path_without_checkpoints_is_one_error(learn, tmp_path):
    with pytest.raises(LearnerError, match="`path` must be a checkpoint or a folder that has some, got"):
        learn.rewind(tmp_path / "nothing", step=3).__enter__()
    with pytest.raises(TypeError, match="`path` must be the path of a checkpoint, or of a folder of them, got 3"):
        learn.rewind(3, step=3).__enter__()
    learn.save(tmp_path / "saved.pt")
    with pytest.raises(LearnerError, match="must be a checkpoint of a CheckpointCallback, got one of another kind"):
        learn.rewind(tmp_path / "saved.pt", step=3).__enter__()


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(learn, folder):
    learn.model[0] = nn.Linear(1, 9)
    with pytest.raises(LearnerError, match=r"must be made as the saved one was, but model: '0.weight' is"):
        learn.rewind(folder, step=8).__enter__()


def test_other_callbacks_than_those_that_trained_are_refused_but_for_what_only_shows(tmp_path):
    folder = tmp_path / "run"
    numbered([CheckpointCallback(folder), ClipGradientCallback(1.0), ProgressCallback()]).fit(2)
    learn = numbered([CheckpointCallback(folder)])
    with pytest.raises(LearnerError, match="it is without ClipGradientCallback; pass what is missing by `cbs=`"):
        learn.rewind(folder, step=8).__enter__()
    with learn.rewind(folder, step=8, cbs=ClipGradientCallback(1.0)) as then:
        assert then.n_steps == 8
    learn.add_cb([ClipGradientCallback(1.0), Often()])
    with pytest.raises(LearnerError, match=r"it is with Often; .* says so by `is_observer = True`"):
        learn.rewind(folder, step=8).__enter__()
    learn.cbs[-1].is_observer = True
    with learn.rewind(folder, step=8) as then:
        assert then.n_steps == 8


def test_callbacks_of_one_fit_alone_are_given_to_the_rewind_as_well(tmp_path):
    def cbs():
        return [CheckpointCallback(tmp_path), SchedulerCallback(decaying)]

    numbered(None).fit(2, cbs=cbs())
    with numbered(None).rewind(tmp_path, step=8, cbs=cbs()) as then:
        then.advance(2)
        assert then.n_steps == 10


def decaying(opt, total_steps=None):
    return torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)


def test_a_fit_is_not_gone_back_from(learn, folder):
    class Within(Callback):
        def after_batch(self, learn):
            learn.rewind(folder, step=8).__enter__()

    with pytest.raises(LearnerError, match="`rewind` must not be called while this learner runs"):
        learn.fit(1, cbs=Within())


def test_to_advance_beyond_the_end_is_one_error_and_the_learner_stands_where_it_stood(learn, folder):
    with learn.rewind(folder, step=8) as then:
        for k, error, words in (
            (0, ValueError, "at least 1"),
            ("2", TypeError, "whole number"),
            (5, LearnerError, "left"),
        ):
            with pytest.raises(error, match=words):
                then.advance(k)
            assert then.n_steps == 8
        then.advance(4)
        with pytest.raises(LearnerError, match="the fit is over: there is no batch"):
            then.advance()
        with pytest.raises(LearnerError, match="the fit is over: there is no batch"):
            then.run()
        assert "the end of the fit, 12 steps made" in repr(then)


def test_loaders_that_nobody_can_promise_are_told_and_iterators_refused(tmp_path):
    class Stream:
        def __iter__(self):
            return iter([(torch.ones(2, 1), torch.ones(2, 1))] * 3)

    def learner(loader):
        return Learner(nn.Linear(1, 1), {"train": loader}, nn.functional.mse_loss, cbs=CheckpointCallback(tmp_path))

    with pytest.warns(RuntimeWarning, match="must give the same batches again"):
        learner(Stream()).fit(2)
    with (
        pytest.warns(RuntimeWarning, match="the rest of a pass may differ"),
        learner(Stream()).rewind(tmp_path, step=4) as then,
    ):
        assert then.n_steps == 4
    with pytest.raises(LearnerError, match="loader 'train' must give its batches again, but it is an iterator"):
        learner(iter([])).rewind(tmp_path, step=4).__enter__()


def test_a_checkpoint_that_is_damaged_is_passed_over_with_a_warning(tmp_path):
    numbered(CheckpointCallback(tmp_path, every=2, keep=100)).fit(2)
    (tmp_path / "step-00000008.pt").write_bytes(b"broken")
    (tmp_path / "step-00000006.pt").write_bytes(b"broken")
    learn = numbered(CheckpointCallback(tmp_path))
    with pytest.warns(RuntimeWarning, match="An earlier one is used"), learn.rewind(tmp_path, step=9) as then:
        assert then.n_steps == 9


def test_of_a_fit_whose_beginning_is_not_there_it_says_so(tmp_path):
    """Two fits: between the last checkpoint of the first and the first one of the second nobody knows the way."""
    learn = numbered(CheckpointCallback(tmp_path, every=4, keep=100))
    learn.fit(1)
    learn.fit(1)
    with pytest.raises(LearnerError, match=r"ends when 6 steps are made; step-00000010.pt, which comes next, is of an"):
        learn.rewind(tmp_path, step=7).__enter__()
    with learn.rewind(tmp_path, step=11) as then:
        assert (then.epoch, then.i) == (1, 5)


def test_a_fit_that_went_on_elsewhere_in_between_is_gone_back_into_as_it_went_on(tmp_path):
    """From a checkpoint in the middle, with another rate: in the same folder, and in one of its own."""

    def change_rate(learn):
        learn.opt.param_groups[0]["lr"] *= 2

    first = numbered(CheckpointCallback(tmp_path / "a", every=2, keep="all"))
    first.fit(3)
    for name in "ba":
        learn = numbered(CheckpointCallback(tmp_path / name, every=2, keep="all"))
        learn.fit(3, resume=tmp_path / "a" / "step-00000006.pt", cbs=AtStep(9, change_rate))
        before = [p.detach().clone() for p in learn.model.parameters()]
        again = numbered(CheckpointCallback(tmp_path / name))
        with again.rewind(tmp_path / name, step=11, cbs=AtStep(9, change_rate)) as then:
            then.advance(7)
            assert all(map(torch.equal, before, again.model.parameters()))
    with (
        pytest.raises(LearnerError, match=r"`step=5` must not be before the first checkpoint, step-00000008.pt"),
        again.rewind(tmp_path / "b", step=5),
    ):
        pass
    with again.rewind(tmp_path / "a", step=5, cbs=AtStep(9, change_rate)) as then:
        assert then.n_steps == 5


class AtStep(Callback):
    """Do something before a step; its own order says that nobody has to have it."""

    order = 100

    def __init__(self, n, do):
        self.n, self.do = n, do

    def before_batch(self, learn):
        if learn.training and learn.n_steps == self.n:
            self.do(learn)
