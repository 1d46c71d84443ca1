"""How often and where a callback is called: `every` and `loaders`, for any callback and any unit."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
)
from learner.loop.frequency import Every, Pace

EPOCH_SIGNALS = ("before_epoch", "after_epoch", "cleanup_epoch")
BATCH_SIGNALS = (
    *("before_batch", "after_predict", "after_loss", "after_backward", "after_step", "after_batch", "cleanup_batch"),
)
FIT_SIGNALS = ("before_fit", "after_fit", "cleanup_fit")
ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")
CANCELS = (CancelFitException, CancelEpochException, CancelBatchException, CancelStepException)
BATCH = (torch.ones(2, 1), torch.ones(2, 1))


class Batches:
    """Write down in which batches it is called; `hears` at one signal."""

    def __init__(self, hears="after_batch", **attributes):
        self.heard = []
        setattr(self, hears, self.hear)
        vars(self).update(attributes)

    def hear(self, learn):
        self.heard.append((learn.dl_name, learn.epoch, learn.i))

    def take(self):
        heard, self.heard = self.heard, []
        return heard


def learner(cbs, **n_batches):
    """Return a learner whose loaders have so many batches."""
    torch.manual_seed(0)
    dls = {name: [BATCH] * n for name, n in (n_batches or {"train": 3, "valid": 2}).items()}
    return Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.01, cbs=cbs)


@pytest.fixture
def clock(monkeypatch):
    """Return a list that holds the time [s]."""
    now = [1000.0]
    monkeypatch.setattr("learner.loop.frequency.monotonic", lambda: now[0])
    return now


# -- what may be asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "n", "unit"),
    [
        (None, 1, "batches"),
        (1, 1, "batches"),
        (10, 10, "batches"),
        (np.int64(10), 10, "batches"),
        ("batch", 1, "batches"),
        ("1 batch", 1, "batches"),
        ("10 batches", 10, "batches"),
        (" 10batches ", 10, "batches"),
        ("epoch", 1, "epochs"),
        ("2 epochs", 2, "epochs"),
        ("30 s", 30, "s"),
        ("30s", 30, "s"),
        ("0.5 s", 0.5, "s"),
        ("10 min", 600, "s"),
        ("1.5 h", 5400, "s"),
    ],
)
def test_intervals(value, n, unit):
    assert Every.of(value) == (n, unit)


def test_what_is_always():
    always = [None, 1, "batch", "epoch", "1 epoch"]
    assert all(Every.of(value).is_always for value in always)
    assert not any(Every.of(value).is_always for value in (2, "2 epochs", "1 s"))


BAD_VALUES = [
    0,
    -1,
    "0 batches",
    "0 s",
    "0.0 h",
    "-2 epochs",
    "",
    "often",
    "10",
    "2 rounds",
    "1.5 epochs",
    "1 S",
    "1\n s",
]
BAD_TYPES = [1.0, 2.5, True, False, (2,), b"1 s", torch.tensor(2)]
BAD_EVERY = [*((value, ValueError) for value in BAD_VALUES), *((value, TypeError) for value in BAD_TYPES)]
BAD_LOADERS = [
    *((value, ValueError) for value in ("", (), [], ("train", ""))),
    *((value, TypeError) for value in (3, ("train", 3), {"train"}, True)),
]


@pytest.mark.parametrize("base", [Callback, object])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [*(("every", *case) for case in BAD_EVERY), *(("loaders", *case) for case in BAD_LOADERS)],
)
def test_what_means_nothing_is_refused_when_the_callback_is_added(base, name, value, error):
    cb = type("Odd", (base,), {name: value, "after_batch": lambda self, learn: None})()
    must = {"every": "a number of batches, or as '10 batches'", "loaders": "a loader's name or pattern, or a tuple"}
    learn = learner(None)
    with pytest.raises(error, match=rf"^`Odd\.{name}` must be {must[name]}.*got .*; leave it out, or None, for"):
        learn.add_cb(cb)
    assert learn.cbs == ()


def test_a_method_of_that_name_is_refused_too():
    class Named(Callback):
        def loaders(self):
            """Have nothing to do with this."""

    with pytest.raises(TypeError, match=r"`Named\.loaders` must be a loader's name .* got <bound method"):
        learner(Named())


@pytest.mark.parametrize("asked", [{"every": 2}, {"every": "2 epochs"}, {"loaders": "train"}])
@pytest.mark.parametrize("action", ACTIONS)
def test_who_owns_an_action_cannot_be_away(action, asked):
    owner = type("Owner", (), {action: lambda self, learn: None, **asked})()
    with pytest.raises(
        ValueError, match=rf"`Owner` must not set `every`, `loaders` or `ranks`, for it owns `{action}`.*around_"
    ):
        learner(owner)
    owner.every = owner.loaders = None
    learner(owner)


@pytest.mark.parametrize(("loaders", "named"), [("vaild*", "vaild"), (("train", "valid3"), "valid3"), ("Train", "T")])
def test_a_pattern_that_fits_no_loader_is_refused_when_the_fit_begins(loaders, named):
    learn = learner(Batches(loaders=loaders), train=1, valid2=1)
    with pytest.raises(
        ValueError, match=rf"`Batches\.loaders` must match .* got '{named}.*'; there is 'train', 'valid2'"
    ):
        learn.fit(1)
    learn.validate("valid2")  # a callback need not be for this pass


def test_a_pattern_of_a_role_fits_any_data():
    batches = Batches(loaders=("valid", "infer*"))
    learn = learner(batches, train=2)
    learn.fit(1)
    assert batches.take() == []
    learn.get_preds([BATCH])
    assert batches.take() == [("infer", 0, 0)]


# -- where --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loaders", "named"),
    [
        ("valid", "valid"),
        ("valid*", "valid valid2"),
        ("*2", "train2 valid2"),
        ("train", "train"),
        (("train", "valid2"), "train valid2"),
        (["train?"], "train2"),
        ("*", "train valid train2 valid2"),
        (None, "train valid train2 valid2"),
    ],
)
@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_loss", "cleanup_batch", "cleanup_epoch"])
def test_loaders_by_name_or_pattern(loaders, named, signal):
    batches = Batches(signal, loaders=loaders)
    learner(batches, train=1, valid=1, train2=1, valid2=1).fit(2)
    assert batches.take() == [(name, epoch, 0) for epoch in range(2) for name in named.split()]


@pytest.mark.parametrize("asked", [{"loaders": "infer*"}, {"every": 100}, {"every": "100 epochs"}, {"every": "9 h"}])
def test_signals_of_a_fit_always_come(asked):
    cb = Recorder([], **asked)
    learner(cb).fit(1)
    heard = {signal for signal, *_ in cb.trace}
    assert set(FIT_SIGNALS) <= heard
    assert not heard & {*BATCH_SIGNALS, *(f"around_{action}" for action in ACTIONS)}
    assert (
        heard >= set(EPOCH_SIGNALS) if asked in ({"every": 100}, {"every": "9 h"}) else not heard & set(EPOCH_SIGNALS)
    )


def test_signals_of_a_subclass_of_learner_always_come():
    class Talks(Learner):
        signals = ("after_word",)

        def predict(self):
            super().predict()
            self.callback("after_word")

    batches = Batches("after_word", every=2, loaders="valid")
    Talks(nn.Linear(1, 1), {"train": [BATCH] * 3}, nn.functional.mse_loss, cbs=batches).fit(1)
    assert len(batches.take()) == 3


# -- how often ----------------------------------------------------------------------------------------------------


def test_batches_are_counted_over_passes_and_epochs():
    batches = Batches(every=4)
    learner(batches).fit(3)  # 3 + 2 batches in each
    assert batches.take() == [("valid", 0, 0), ("train", 1, 2), ("train", 2, 1)]


def test_an_interval_longer_than_an_epoch_still_comes():
    batches = Batches(every="7 batches", loaders="train")
    learner(batches).fit(5)  # 3 training batches in each
    assert batches.take() == [("train", 2, 0), ("train", 4, 1)]


def test_only_batches_that_are_heard_count():
    batches = Batches("after_step", every=2)  # there is no step in validation
    learner(batches).fit(2)
    assert batches.take() == [("train", 0, 1), ("train", 1, 0), ("train", 1, 2)]


@pytest.mark.parametrize("signal", ["before_epoch", "after_epoch", "after_batch"])
def test_rounds(signal):
    batches = Batches(signal, every="2 epochs")
    learner(batches).fit(5)
    assert {epoch for _, epoch, _ in batches.heard} == {1, 3}
    assert len(batches.heard) == 2 * (5 if signal == "after_batch" else 2)


def test_rounds_that_are_set_by_a_callback():
    class Resume:
        def before_fit(self, learn):
            learn.epochs = range(4, 8)

    batches = Batches("before_epoch", every="3 epochs")
    learner([Resume(), batches], train=1).fit(8)
    assert batches.take() == [("train", 5, 0)]


def test_seconds_since_it_was_due_and_at_first_since_the_fit_began(clock):
    class Slow:
        order = 10

        def after_batch(self, learn):
            clock[0] += 4

    batches = Batches("before_batch", every="10 s")
    learn = learner([batches, Slow()], train=4, valid=1)
    clock[0] += 100  # before the fit, nobody waits
    for _ in range(2):  # batches begin at 0, 4, 8, 12, 16; 20, 24, …
        learn.fit(2)
        assert batches.take() == [("train", 0, 3), ("train", 1, 1), ("valid", 1, 0)]
        clock[0] += 100


def test_all_signals_of_a_batch_agree_however_long_it_takes(clock):
    class Slow:
        def after_predict(self, learn):
            clock[0] += 10

    cb = Recorder([], every="10 s")
    learner([Slow(), cb], train=3).fit(1)
    assert [(signal, i) for signal, i in heard_in_batches(cb) if signal in ("before_batch", "cleanup_batch")] == [
        ("before_batch", 1),
        ("cleanup_batch", 1),
        ("before_batch", 2),
        ("cleanup_batch", 2),
    ]


def heard_in_batches(cb):
    return [(signal, i) for signal, _, _, i in cb.trace if signal not in (*FIT_SIGNALS, *EPOCH_SIGNALS)]


def test_a_fit_counts_anew():
    batches = Batches(every=2, loaders="train")
    learn = learner(batches)
    for _ in range(2):
        learn.fit(1)
        assert batches.take() == [("train", 0, 1)]


def test_a_pass_of_its_own_counts_anew_and_is_of_no_round():
    by_batch, by_round = Batches(every=2), Batches(every="2 epochs")
    learn = learner([by_batch, by_round], train=3, valid=3)
    for _ in range(2):
        learn.validate()
        assert by_batch.take() == [("valid", 0, 1)]
        assert by_round.take() == [("valid", 0, i) for i in range(3)]
    learn.fit(1)
    assert by_round.take() == []


def test_what_was_changed_since_it_was_added_holds_in_the_next_fit():
    batches = Batches(every=2, loaders="train")
    learn = learner(batches)
    batches.every, batches.loaders = 1, "valid"
    learn.fit(1)
    assert batches.take() == [("valid", 0, 0), ("valid", 0, 1)]
    batches.every = "never"
    with pytest.raises(ValueError, match=r"`Batches\.every` must be .* got 'never'"):
        learn.fit(1)


def test_a_step_made_after_the_pass_belongs_to_its_last_batch():
    class Flush:
        def after_epoch(self, learn):
            learn.update()

    for n, expected in [(1, [0, 1, 2, 2]), (3, [2, 2]), (2, [1])]:
        batches = Batches("after_step", every=n)
        learner([Flush(), batches], train=3).fit(1)
        assert [i for _, _, i in batches.heard] == expected


def test_pace_by_epochs_ticks_for_no_batch():
    pace = Pace(Every.of("2 epochs"))
    assert not any(pace.tick() for _ in range(5))


# -- passes within passes, and callbacks that come and go ---------------------------------------------------------


class Nested(Callback):
    """Validate in each training batch."""

    order = -5

    def __init__(self, run=Learner.validate):
        self.run = run

    def after_predict(self, learn):
        if learn.training:
            self.run(learn)


@pytest.mark.parametrize("run", [Learner.validate, Learner.get_preds])
def test_a_pass_within_a_batch_counts_only_where_it_is_heard(run):
    train, valid = (Recorder([], every=2, loaders=name) for name in ("train", "valid"))
    both = Recorder([], every=3)
    learner([Nested(run), train, valid, both], train=4, valid=3).fit(1)
    assert {i for _, i in heard_in_batches(train)} == {1, 3}
    assert [i for signal, i in heard_in_batches(valid) if signal == "after_batch"] == [1, 0, 2, 1, 0, 2, 1]
    # Batches 1, 5, 9 and 13 train; the ninth is due, and ends after the twelfth, which is within it and due as well.
    ends = [(name, i) for signal, name, _, i in both.trace if signal == "after_batch"]
    assert ends == [*(("valid", i) for i in (1, 0, 2)), ("train", 2), ("valid", 1), ("valid", 1)]


def test_callbacks_that_come_and_go_leave_the_counts_and_the_batch_alone():
    class Changes(Callback):
        def after_predict(self, learn):
            if learn.training:
                extra = Batches(every=3)
                learn.add_cb(extra)
                learn.get_preds([BATCH])
                learn.remove_cb(extra)

    cb = Recorder([], every=3, loaders="train")
    learner([Changes(), cb], train=7).fit(1)
    plain = Recorder([], every=3, loaders="train")
    learner(plain, train=7).fit(1)
    assert cb.trace == plain.trace


def test_a_callback_added_in_the_middle_of_a_fit_counts_from_there():
    late = Batches(every=2)

    class Adds(Callback):
        def after_predict(self, learn):
            if learn.i == 2:
                learn.add_cb(late)

    learner(Adds(), train=6).fit(1)
    assert late.take() == [("train", 0, 3), ("train", 0, 5)]


def test_a_sandbox_puts_the_counts_back(clock):
    class TriesOut(Callback):
        def before_batch(self, learn):
            if learn.training and not learn.in_sandbox:
                with learn.sandbox():
                    clock[0] += 100
                    learn.validate()
                clock[0] += 1

    class Learns(Batches):  # a sandbox takes back what was heard in it as well
        def hear(self, learn):
            if not learn.in_sandbox:
                super().hear(learn)

    by_batch, by_time = Learns("before_batch", every=4), Learns("before_batch", every="4 s")
    learner([TriesOut(), by_batch, by_time], train=9, valid=3).fit(1)
    assert by_batch.take() == [("train", 0, 3), ("train", 0, 7), ("valid", 0, 2)]
    assert by_time.take() == [("train", 0, 3), ("train", 0, 7)]


# -- wrappers, errors, cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_is_done_once_whether_its_wrapper_is_away_or_not(action):
    class Counts(Learner):
        n = 0

    def act(self):
        self.n += 1
        getattr(Learner, action)(self)

    setattr(Counts, action, act)
    cb = type("Wraps", (), {"every": 2, "loaders": "train", "n": 0, f"around_{action}": wrap})()
    learn = Counts(nn.Linear(1, 1), {"train": [BATCH] * 5}, nn.functional.mse_loss, lr=0.01, cbs=cb)
    learn.fit(1)
    assert (learn.n, cb.n) == (5, 2)


def wrap(self, learn, action):
    self.n += 1
    action()


@pytest.mark.parametrize("signal", ["before_batch", "after_loss", "cleanup_batch", "around_step"])
def test_an_error_is_noted_with_the_class(signal):
    def fail(self, learn, action=None):
        raise ValueError("mine")

    cb = type("Fails", (), {"every": 2, "loaders": "train", signal: fail})()
    with pytest.raises(ValueError, match="mine") as caught:
        learner(cb).fit(1)
    assert f"in Fails.{signal}" in caught.value.__notes__[0]
    assert "batch 1" in caught.value.__notes__[0]


@pytest.mark.parametrize("every", [None, 1, "epoch"])
def test_nothing_stands_before_a_callback_that_asks_for_nothing(every):
    cb = Recorder([], every=every, loaders=None)
    learn = learner(cb)
    assert learn._dispatch.gates == {}
    assert learn._dispatch.listeners["after_batch"] == (cb.after_batch,)
    assert learn._dispatch.turns["batch"] == ((cb.before_batch, cb.cleanup_batch),)


def test_nothing_stands_before_signals_that_always_come():
    cb = Recorder([], every=3, loaders=None)
    dispatch = learner(cb)._dispatch
    for signal in (*FIT_SIGNALS, *EPOCH_SIGNALS):
        assert dispatch.listeners[signal] == (getattr(cb, signal),)


def test_a_class_with_slots_may_ask_as_well():
    class Slots:
        __slots__ = ("n",)
        every, loaders = 2, "train"

        def after_batch(self, learn):
            self.n += 1

    cb = Slots()
    cb.n = 0
    learner(cb).fit(2)
    assert cb.n == 3


def test_the_plan_says_when(capsys):
    cb = Recorder([], every="10 batches", loaders=("train", "valid*"))
    learner([cb, Batches("after_epoch", every="2 epochs"), Batches("before_epoch", every=3)]).plan()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["before_fit"] == "Recorder"
    assert lines["before_epoch"] == "Recorder (train, valid*) → Batches"
    assert lines["after_batch"] == "Recorder (every 10 batches, train, valid*)"
    assert lines["step"] == "around: Recorder (every 10 batches, train, valid*) → Learner"
    assert lines["after_epoch"] == "Recorder (train, valid*) → Batches (every 2 epochs)"


# -- against a simple model ---------------------------------------------------------------------------------------


class Recorder(Callback):
    """Write down all that is heard: signal, loader, epoch and batch; raise what is planned for it."""

    def __init__(self, faults, every=None, loaders=None):
        self.trace, self.faults = [], dict(faults)
        self.every, self.loaders = every, loaders

    def hear(self, signal, learn):
        self.trace.append((signal, learn.dl_name, learn.epoch, learn.i))
        n_heard = sum(event[0] == signal for event in self.trace)
        if error := self.faults.get((signal, n_heard)):
            raise error

    @staticmethod
    def listen(signal):
        def handler(self, learn):
            self.hear(signal, learn)

        return handler

    @staticmethod
    def wrap(signal):
        def wrapper(self, learn, action):
            self.hear(signal, learn)
            action()

        return wrapper


for name in (*FIT_SIGNALS, *EPOCH_SIGNALS, *BATCH_SIGNALS):
    setattr(Recorder, name, Recorder.listen(name))
for name in ACTIONS:
    setattr(Recorder, f"around_{name}", Recorder.wrap(f"around_{name}"))


NAMED = {None: ("train", "valid", "train2"), "train": ("train",), "train*": ("train", "train2"), "valid": ("valid",)}


@st.composite
def settings_of_a_fit(draw):
    lengths = {
        name: draw(st.integers(1, 4)) for name in ("train", "valid", "train2") if name == "train" or draw(st.booleans())
    }
    return {
        "n_batches": lengths,
        "n_epochs": draw(st.integers(0, 4)),
        "n": draw(st.integers(1, 9)),
        "unit": draw(st.sampled_from(["batches", "epochs"])),
        "loaders": draw(st.sampled_from([None, "train", "train*", "valid"])),
    }


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(settings_of_a_fit())
def test_any_interval_loaders_and_lengths_as_counted_by_hand(given_):
    n, unit, loaders = given_["n"], given_["unit"], given_["loaders"]
    expected, n_heard = [], 0
    for epoch in range(given_["n_epochs"]):
        for name, length in given_["n_batches"].items():
            if name not in NAMED[loaders]:
                continue
            for i in range(length):
                n_heard += 1
                if (n_heard if unit == "batches" else epoch + 1) % n == 0:
                    expected.append((name, epoch, i))
    batches = Batches(every=f"{n} {unit}", loaders=loaders)
    learner(batches, **given_["n_batches"]).fit(given_["n_epochs"])
    assert batches.heard == expected


class Serial(Callback):
    """Number the passes, the ones within others as well."""

    order = -1000

    def __init__(self):
        self.n, self.open = 0, []

    def before_epoch(self, learn):
        self.n += 1
        self.open.append(self.n)

    def cleanup_epoch(self, learn):
        self.open.pop()


class Witness(Recorder):
    """Hear all that the callback after it would hear if it asked for nothing; say which of it is due."""

    def __init__(self, serial, n, unit, loaders):
        super().__init__(())
        self.serial, self.n, self.unit, self.names = serial, n, unit, NAMED[loaders]
        self.batches, self.expected = [], []

    def hear(self, signal, learn):
        super().hear(signal, learn)
        if signal in FIT_SIGNALS:
            is_due = True
        elif learn.dl_name not in self.names:
            is_due = False
        elif self.unit == "epochs":
            is_due = (learn.epoch + 1) % self.n == 0
        elif signal in EPOCH_SIGNALS:
            is_due = True
        else:
            batch = (self.serial.open[-1], learn.i)
            if batch not in self.batches:
                self.batches.append(batch)
            is_due = (self.batches.index(batch) + 1) % self.n == 0
        if is_due:
            self.expected.append(self.trace[-1])


POINTS = [*FIT_SIGNALS, *EPOCH_SIGNALS, *BATCH_SIGNALS, *(f"around_{action}" for action in ACTIONS)]
FAULTS = st.dictionaries(
    st.tuples(st.sampled_from(POINTS), st.integers(1, 6)),
    st.sampled_from([ValueError, KeyboardInterrupt, *CANCELS]),
    max_size=4,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(settings_of_a_fit(), FAULTS, FAULTS, FAULTS, st.booleans())
def test_whatever_cancels_and_fails_all_signals_of_a_batch_agree(given_, early, own, late, has_nested):
    serial = Serial()
    witness = Witness(serial, given_["n"], given_["unit"], given_["loaders"])
    # Who fails in a `before_` is owed no clean-up, which is for the loop to see to, and not of interest here.
    own = {point: error for point, error in own.items() if error in CANCELS or not point[0].startswith("before")}
    gated = Recorder(own, every=f"{given_['n']} {given_['unit']}", loaders=given_["loaders"])
    before, after = Recorder(early), Recorder(late)
    before.order, after.order = -10, 10
    nested = [Nested()] if has_nested and "valid" in given_["n_batches"] else []
    learn = learner([serial, before, witness, gated, after, *nested], **given_["n_batches"])
    for _ in range(2):
        with contextlib.suppress(ValueError, KeyboardInterrupt, *CANCELS):
            learn.fit(given_["n_epochs"])
        check_balance(gated.trace)
        assert sorted(gated.trace) == sorted(witness.expected)
        for cb in (before, after, witness, gated):
            cb.trace.clear()
            cb.faults = {}
        witness.batches, witness.expected = [], []


def check_balance(trace):
    """Each `cleanup_` ends the newest stage of its kind that is open, and none is left open."""
    stack = []
    for signal, *where in trace:
        kind, _, stage = signal.partition("_")
        if kind == "before":
            stack.append((stage, where if stage == "batch" else where[:-1]))
        elif kind == "cleanup":
            opened, there = stack.pop()
            assert opened == stage
            assert stage == "fit" or there == (where if stage == "batch" else where[:-1])
    assert stack == []
