"""What a block of training costs, by a clock that moves when the test says so."""

import copy
import pickle

import pytest
import torch
from torch import nn

from callbacks import CheckpointCallback, ValidateCallback
from learner import Callback, CancelBatchException, Learner, LearnerError
from learner.loop import timed
from learner.loop.dispatch import Dispatch


class Clock:
    """Stands still but for `work` [µs], and for what it takes to read it [ns]."""

    def __init__(self):
        self.now, self.ns_a_read = 0, 0

    def __call__(self):
        self.now += self.ns_a_read
        return self.now

    def work(self, us):
        self.now += us * 1000


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timed, "perf_counter_ns", clock)
    return clock


class Loader:
    """Batches that take 7 µs each, after 100 µs for the first workers; in the end it takes 3 to find that out."""

    def __init__(self, clock, n):
        self.clock, self.n = clock, n

    def __iter__(self):
        self.clock.work(100)
        return self._batches()

    def _batches(self):
        for _ in range(self.n):
            self.clock.work(7)
            yield torch.ones(2, 3), torch.ones(2, 1)
        self.clock.work(3)


class Works(Learner):
    """Actions that take their time."""

    def predict(self):
        self.model.clock.work(1000)
        super().predict()

    def backward(self):
        super().backward()
        self.model.clock.work(2000)

    def step(self):
        self.model.clock.work(500)
        super().step()


class Handles(Callback):
    def __init__(self, clock):
        self.clock = clock

    def before_batch(self, learn):
        self.clock.work(10)
        learn.batch = (*learn.batch,)

    def after_loss(self, learn):
        self.clock.work(20)

    def cleanup_epoch(self, learn):
        self.clock.work(30)


class Wraps(Callback):
    def __init__(self, clock):
        self.clock = clock

    def around_predict(self, learn, action):
        self.clock.work(4)
        action()
        self.clock.work(5)
        learn.preds = learn.preds * 1


class Validates(Callback):
    """Validates within a handler."""

    def after_batch(self, learn):
        if learn.training:
            learn.validate()


def make(clock, cbs=None, cls=Works, n=4):
    model = nn.Linear(3, 1)
    model.clock = clock
    return cls(model, {"train": Loader(clock, n), "valid": Loader(clock, 2)}, nn.functional.mse_loss, cbs=cbs)


def costs(timings):
    """Return what each row took in all [µs], and its calls, of those that took some time."""
    return {
        (row.who, row.at): (pytest.approx(row.us * max(1, timings.n_batches)), row.calls)
        for row in timings.rows
        if row.us
    }


def replaced(timings):
    return {(row.who, row.at): row.replaced for row in timings.rows if row.replaced}


def test_each_moment_is_in_one_row(clock):
    learn = make(clock, [Wraps(clock), Handles(clock)])
    clock.work(1000)  # outside
    with learn.timed() as timings:
        clock.work(1000)  # in the block, and outside of what runs
        learn.fit(2)
        clock.work(1000)
    assert costs(timings) == {
        ("Works", "backward"): (2000 * 8, 8),
        ("Works", "predict"): (1000 * 12, 12),
        ("Works", "step"): (500 * 8, 8),
        ("loader 'train'", "next batch"): (2 * (100 + 4 * 7 + 3), 8),
        ("loader 'valid'", "next batch"): (2 * (100 + 2 * 7 + 3), 4),
        ("Handles", "before_batch"): (10 * 12, 12),
        ("Handles", "after_loss"): (20 * 12, 12),
        ("Handles", "cleanup_epoch"): (30 * 4, 4),
        ("Wraps", "around_predict"): (9 * 12, 12),
    }
    assert timings.n_batches == 12
    assert sum(row.share for row in timings.rows) == pytest.approx(1)
    loop = next(row for row in timings.rows if row.kind == "loop")
    assert (loop.us, loop.calls, loop.replaced) == (0, 1, ())


def test_the_parts_add_up_to_the_whole_less_the_actions_though_the_clock_takes_time(clock):
    learn = make(clock, [Wraps(clock), Handles(clock), Validates()])
    clock.ns_a_read, start = 50, clock.now
    with learn.timed() as timings:
        learn.fit(2)
    whole = (clock.now - start) / 1e3 / timings.n_batches
    actions = sum(row.us for row in timings.rows if row.kind == "action")
    parts = sum(row.us for row in timings.rows if row.kind not in ("action", "loop"))
    assert parts == pytest.approx(whole - actions, rel=0.1)
    assert timings.us == pytest.approx(whole, rel=0.01)


def test_it_works_with_validate_and_get_preds_and_with_callbacks_that_come_within(clock):
    learn = make(clock)
    with learn.timed() as timings:
        learn.validate(cbs=Handles(clock))
        learn.get_preds()
        learn.add_cb(Wraps(clock))
        learn.get_preds([torch.ones(2, 3)])
    assert costs(timings) == {
        ("Works", "predict"): (1000 * 5, 5),
        ("loader 'valid'", "next batch"): (2 * (100 + 2 * 7 + 3), 4),
        ("Handles", "before_batch"): (20, 2),
        ("Handles", "after_loss"): (40, 2),
        ("Handles", "cleanup_epoch"): (30, 1),
        ("Wraps", "around_predict"): (9, 1),
    }
    assert [cb.around_predict for cb in learn.cbs] == [learn._dispatch.wrapper(learn.cbs[0], "predict")]


def test_what_a_handler_runs_is_a_part_of_it(clock):
    learn = make(clock, [Validates(), Handles(clock)])
    with learn.timed() as timings:
        learn.fit(1)
    validation = 100 + 2 * (7 + 10 + 1000 + 20) + 3 + 30
    assert costs(timings)["Validates", "after_batch"] == (4 * validation, 6)
    assert costs(timings)["Handles", "after_loss"] == (20 * 6, 6)
    assert timings.n_batches == 6


@pytest.mark.parametrize("every", [None, 2])
def test_who_replaced_what(clock, every):
    class Logs(Callback):
        def after_loss(self, learn):
            learn.log(twice=2 * learn.loss)
            learn.metrics["mine"] = {}  # in place
            learn._private = object()

    class Once(Callback):
        def after_predict(self, learn):
            learn.yb = learn.yb + 0

    Once.every = every
    learn = make(clock, [Handles(clock), Wraps(clock), Logs(), Once(), Validates(), ValidateCallback(every=2)])
    with learn.timed() as timings:
        learn.fit(1)
    assert replaced(timings) == {
        ("Works", "predict"): ("output", "preds"),
        ("Works", "get_loss"): ("loss",),
        ("Handles", "before_batch"): ("batch",),
        ("Wraps", "around_predict"): ("preds",),
        ("Once", "after_predict"): ("yb",),
    }
    assert next(row.calls for row in timings.rows if row.who == "Once") == (3 if every else 6)


def test_an_owner_is_the_action_and_an_action_set_by_hand_is_the_learners(clock):
    class Owns(Callback):
        def predict(self, learn):
            clock.work(3)
            Learner.predict(learn)

    learn = make(clock, Owns(), cls=Learner, n=1)

    def step():
        clock.work(11)
        learn.opt.step()

    learn.step = step
    with learn.timed() as timings:
        learn.fit(1)
    kinds = {(row.who, row.at): row.kind for row in timings.rows}
    assert costs(timings)["Owns", "predict"] == (9, 3)
    assert costs(timings)["Learner", "step"] == (11, 1)
    assert kinds["Owns", "predict"] == kinds["Learner", "step"] == "action"
    assert learn.step is step
    with learn.timed() as timings:
        del learn.step
        learn.step = lambda: (clock.work(12), step())
        learn.fit(1)
    assert costs(timings)["Learner", "step"] == (23, 1)
    learn.fit(1)
    assert learn.n_steps == 3


def test_a_step_that_evaluates_the_batch_again_is_net_of_that(clock):
    learn = make(clock, Handles(clock), n=1)
    learn.opt_func = torch.optim.LBFGS
    with learn.timed() as timings:
        learn.fit(1)
    took = costs(timings)
    assert took["Works", "predict"][1] > 3
    assert took["Works", "step"] == (500, 1)
    assert took["Handles", "after_loss"][1] == took["Works", "predict"][1]


def test_several_of_a_class_have_numbers_in_running_order(clock):
    first, second = Handles(clock), Handles(clock)
    second.order = -1
    learn = make(clock, [first, second], n=1)
    with learn.timed() as timings:
        learn.validate()
        learn.remove_cb(second)
        learn.validate()
    calls = {row.who: row.calls for row in timings.rows if row.at == "after_loss"}
    assert calls == {"Handles 1": 2, "Handles 2": 2, "Handles": 2}


def test_a_signal_of_a_subclass_is_timed_and_one_that_is_emitted_by_hand(clock):
    class Own(Works):
        signals = ("on_purpose",)

        def predict(self):
            super().predict()
            self.callback("on_purpose")

    class Hears(Callback):
        def on_purpose(self, learn):
            clock.work(6)

    learn = make(clock, Hears(), cls=Own)
    with learn.timed() as timings:
        learn.validate()
        learn.callback("on_purpose")
    assert costs(timings)["Hears", "on_purpose"] == (18, 3)
    assert costs(timings)["Own", "predict"] == (2000, 2)


class FailsAt(Callback):
    def __init__(self, signal, error):
        setattr(self, signal, self.fail)
        self.error = error

    def fail(self, learn):
        raise self.error("on purpose")


@pytest.mark.parametrize("signal", ["before_fit", "before_batch", "after_loss", "cleanup_batch", "after_epoch"])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_all_is_as_before_however_the_block_ends(clock, signal, error):
    learn = make(clock, Handles(clock))
    learn.fit(1)
    before = dict(vars(learn))
    listeners = learn._dispatch.listeners
    with pytest.raises(error, match="on purpose") as raised, learn.timed() as timings:
        learn.fit(1, cbs=FailsAt(signal, error))
    assert f"learner: in FailsAt.{signal}, epoch 1" in raised.value.__notes__[0]
    assert next(row.calls for row in timings.rows if row.who == "FailsAt") == 1
    assert type(learn._dispatch) is Dispatch
    assert learn._dispatch.listeners == listeners
    assert vars(learn).keys() == before.keys()
    learn.fit(1)
    with learn.timed() as timings:
        learn.fit(1)
    assert timings.n_batches == 6


def test_an_error_of_the_loader_is_told_as_ever(clock):
    class Fails(Loader):
        def _batches(self):
            yield torch.ones(2, 3), torch.ones(2, 1)
            raise OSError("gone")

    learn = make(clock)
    with pytest.raises(OSError, match="gone") as raised, learn.timed() as timings:
        learn.side_pass("odd", Fails(clock, 1))
    assert "the loader, batch 1" in raised.value.__notes__[0]
    assert costs(timings)["loader 'odd'", "next batch"] == (100, 1)


def test_a_batch_that_is_cancelled_is_counted(clock):
    learn = make(clock, FailsAt("after_predict", CancelBatchException))
    with learn.timed() as timings:
        learn.validate()
    assert timings.n_batches == 2


def test_one_within_another_and_one_within_a_fit_are_errors(clock):
    class Times(Callback):
        def before_fit(self, learn):
            learn.timed().__enter__()

    learn = make(clock)
    with learn.timed() as timings:
        with pytest.raises(LearnerError, match="`timed` must not be called within another `timed`"):
            learn.timed().__enter__()
        learn.validate()
    assert timings.n_batches == 2
    with pytest.raises(LearnerError, match="`timed` must not be called while this learner runs"):
        learn.fit(1, cbs=Times())


def test_nothing_is_paid_when_it_is_not_asked_for(monkeypatch):
    def never():
        raise AssertionError

    monkeypatch.setattr(timed, "perf_counter_ns", never)
    cb = Handles(Clock())
    learn = make(cb.clock, cb)
    learn.fit(1)
    assert learn._dispatch.listeners["after_loss"] == (cb.after_loss,)
    assert learn._dispatch.actions == {}
    assert learn._dispatch.batches_of(learn) is learn.dl
    assert learn._bound == {}


def test_training_is_the_same(make_learner):
    alone, watched = make_learner(), make_learner()
    for learn in (alone, watched):
        torch.manual_seed(1)
        if learn is watched:
            with learn.timed():
                learn.fit(2)
        else:
            learn.fit(2)
    assert torch.equal(alone.model[0].weight, watched.model[0].weight)
    assert alone.history.to_dict() == watched.history.to_dict()


def test_a_fit_that_goes_on_is_timed_from_where_it_goes_on(make_learner, tmp_path):
    class Fails(Callback):
        def before_batch(self, learn):
            if learn.n_steps == 2:
                raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        make_learner([CheckpointCallback(tmp_path, every=1), Fails()]).fit(1)
    learn = make_learner(CheckpointCallback(tmp_path, every=1))
    with learn.timed() as timings:
        learn.fit(1, resume=True)
    calls = {row.who: row.calls for row in timings.rows if row.at == "next batch"}
    assert calls == {"loader 'train'": 1, "loader 'valid'": 2}
    assert learn.n_steps == 3


def test_a_copy_that_is_made_within_is_not_timed(make_learner, capsys):
    learn = make_learner(Callback())
    learn.plan()
    with learn.timed() as timings:
        copies = [copy.deepcopy(learn), pickle.loads(pickle.dumps(learn))]
        learn.plan()
        with learn.sandbox():
            learn.fit(1)
        copies[0].fit(1)
        learn.validate()
    for each in (*copies, learn):
        assert type(each._dispatch) is Dispatch
        assert each._bound == {}
    assert timings.n_batches == 7
    plans = capsys.readouterr().out
    assert plans[: len(plans) // 2] == plans[len(plans) // 2 :]
