"""A fit that goes on from a checkpoint is, bit for bit, one that was not stopped; what does not fit changes nothing."""

import copy
import re
import shutil
from functools import partial
from itertools import count

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from callbacks import AccumulateCallback, CheckpointCallback, SchedulerCallback, ValidateCallback
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    LearnerError,
    Loaders,
)
from learner.checkpoint.callback_state import devices_of, put_on
from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.snapshot import snapshot
from tests.resuming import (
    StopAt,
    StoppedError,
    assert_equal_runs,
    differing,
    leaves,
    resumed,
    resumed_from_each,
    seed_all,
    stopped,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

N_BATCHES = 9  # of an epoch: 6 that train, 3 that do not
ONE_CYCLE = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)


class Ema(Callback):
    """Keep something of each step, in plain attributes."""

    state = ("mean", "n")

    def __init__(self):
        self.mean, self.n = torch.zeros(()), 0

    def before_fit(self, learn):
        self.mean, self.n = torch.zeros(()), 0

    def after_step(self, learn):
        self.mean = 0.9 * self.mean + 0.1 * learn.loss.detach()
        self.n += 1


def held(learn):
    """Return a copy of all that a learner holds, but for the seconds of a `CheckpointCallback`."""
    state = copy.deepcopy(snapshot(learn))
    state["callbacks"].pop("CheckpointCallback", None)
    return state


def data(n=22, start=0):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 4, generator=generator), torch.randint(3, (32,), generator=generator)
    return x[start : start + n], y[start : start + n]


def step(n):
    return f"step-{n:08d}.pt"


# -- where it goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_interrupt", [False, True])
@pytest.mark.parametrize("stop_at", [0, 1, 5, 6, 8, 9, 13, 16])
def test_it_goes_on_bit_for_bit(tmp_path, stop_at, by_interrupt):
    make = lambda cbs: tiny_learner([*cbs, Ema()])
    whole = uninterrupted(make, 2, tmp_path / "whole", every=2)
    learn = stopped_and_resumed(make, 2, stop_at, tmp_path / "run", every=2, by_interrupt=by_interrupt)
    assert_equal_runs(learn, whole)
    assert differing(vars(learn.cbs[-1]), vars(whole.cbs[-1])) == []


def test_with_nothing_there_it_begins_anew_and_says_so(tmp_path, capsys):
    whole = uninterrupted(tiny_learner, 1, tmp_path / "whole")
    (tmp_path / "run").mkdir()
    learn = resumed(tiny_learner, 1, tmp_path / "run")
    assert capsys.readouterr().out == f"resume: no checkpoint in {tmp_path / 'run'} yet; begins anew.\n"
    assert_equal_runs(learn, whole)
    assert learn.is_resumed is False


def test_it_says_where_it_goes_on(tmp_path, capsys):
    for stop_at, words in [
        (2, "batch 3 of loader 'train' in epoch 0 of 2"),
        (7, "batch 2 of loader 'valid' in epoch 0 of 2"),
    ]:
        stopped_and_resumed(tiny_learner, 2, stop_at, tmp_path / words, by_interrupt=True)
        assert re.fullmatch(rf"resume: goes on with {words} \(/.*/step-0000000\d.pt\).\n", capsys.readouterr().out)


@pytest.mark.parametrize(("stop_at", "epoch"), [(3, 0), (12, 1)])
def test_callbacks_know_the_epoch_in_which_it_goes_on_when_the_fit_begins(tmp_path, stop_at, epoch):
    class Look(Callback):
        def before_fit(self, learn):
            self.epoch = learn.epoch

    stopped(lambda cbs: tiny_learner([*cbs, Look()]), 2, stop_at, tmp_path)
    learn = resumed(lambda cbs: tiny_learner([*cbs, Look()]), 2, tmp_path)
    assert learn.cbs[-1].epoch == epoch


def test_a_finished_fit_says_so_and_trains_no_epoch(tmp_path, capsys):
    whole = uninterrupted(tiny_learner, 2, tmp_path)
    learn = resumed(tiny_learner, 2, tmp_path)
    assert (
        capsys.readouterr().out == f"resume: {tmp_path / step(12)} has 2 epochs done of 2; nothing is left to train.\n"
    )
    assert learn.is_resumed
    assert_equal_runs(learn, whole)
    assert [path.name for path in sorted(tmp_path.glob("*.pt"))] == [step(n) for n in (10, 11, 12)]


def test_more_epochs_are_those_of_a_longer_fit(tmp_path, capsys):
    whole = uninterrupted(tiny_learner, 4, tmp_path / "whole")
    uninterrupted(tiny_learner, 2, tmp_path / "run")
    learn = resumed(tiny_learner, 4, tmp_path / "run")
    assert "goes on with epoch 2 of 4, where 2 were asked for before (" in capsys.readouterr().out
    assert_equal_runs(learn, whole)


def test_fewer_epochs_than_are_done_leave_nothing_to_train(tmp_path, capsys):
    stopped(tiny_learner, 4, 2 * N_BATCHES + 3, tmp_path, by_interrupt=True)
    learn = resumed(tiny_learner, 2, tmp_path)
    assert (
        f"{step(16)} is further than the 2 epochs asked for, where 4 were asked for before: its weights are"
        in capsys.readouterr().out
    )
    assert (learn.n_steps, len(learn.history)) == (16, 2)


def test_a_fit_of_fewer_steps_or_epochs_than_are_done_says_how_to_train_on(tmp_path, capsys):
    uninterrupted(tiny_learner, {"steps": 6}, tmp_path)
    for length, said in (
        (
            {"steps": 4},
            "has all 4 steps done, where 6 steps were asked for before; nothing is left to train. `steps`",
        ),
        (1, "has 1 epoch done of 1, where 6 steps were asked for before; nothing is left to train. `n_epochs`"),
    ):
        resumed(tiny_learner, length, tmp_path)
        out = capsys.readouterr().out
        assert said in out
        n = 6 if length != 1 else 1
        assert f"counts from the beginning of that fit: to train on, ask for more than {n}." in out


def test_fewer_epochs_than_were_asked_for_end_earlier(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole")
    stopped(tiny_learner, 5, 3, tmp_path / "run")
    assert_equal_runs(resumed(tiny_learner, 2, tmp_path / "run"), whole)


@pytest.mark.parametrize("signal", ["before_epoch", "after_batch", "after_epoch"])
def test_a_fit_that_a_callback_ended_stays_ended_and_says_so(tmp_path, capsys, signal):
    class Stop(Callback):
        def hear(self, learn):
            if learn.epoch == 1 and learn.i in (0, 5) and learn.training:
                raise CancelFitException

    setattr(Stop, signal, Stop.hear)
    make = lambda cbs: tiny_learner([*cbs, Stop()])
    whole = uninterrupted(make, 5, tmp_path, every="epoch")
    learn = resumed(make, 5, tmp_path, every="epoch")
    out = capsys.readouterr().out
    assert (
        "is of a fit that a callback has ended in epoch 1; nothing is left. To train on, do `learn.load(path)`" in out
    )
    assert_equal_runs(learn, whole)
    learn.fit(1, resume=sorted(tmp_path.glob("*.pt"))[-1])
    assert learn.n_steps == whole.n_steps


def test_an_ended_fit_can_be_loaded_and_trained_on(tmp_path):
    class Stop(Callback):
        def after_epoch(self, learn):
            if not learn.training:
                raise CancelFitException

    make = lambda cbs: tiny_learner([*cbs, Stop()])
    whole = uninterrupted(make, 3, tmp_path / "run", every="epoch")
    learn = make([CheckpointCallback(tmp_path / "other")])
    learn.load(tmp_path / "run" / step(6))
    assert_equal_runs(learn, whole)
    for each in (learn, whole):
        each.remove_cb(each.cbs[-1])
        seed_all(7)
        each.fit(1)
    assert_equal_runs(learn, whole)


def test_resuming_twice_from_one_checkpoint_gives_the_same(tmp_path):
    stopped(tiny_learner, 2, 4, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert_equal_runs(resumed(tiny_learner, 2, tmp_path / "a"), resumed(tiny_learner, 2, tmp_path / "b"))


def test_it_may_be_stopped_again_and_again(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole", every=2)
    stopped(tiny_learner, 2, 3, tmp_path / "run", every=2)
    for n in (2, 5, 1, 4):
        learn = tiny_learner([CheckpointCallback(tmp_path / "run", 2), StopAt(n)])
        with pytest.raises(StoppedError):
            learn.fit(2, resume=True)
    assert_equal_runs(resumed(tiny_learner, 2, tmp_path / "run", every=2), whole)


def test_the_same_learner_goes_on_as_well(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole", every=4)
    learn = stopped(tiny_learner, 2, 7, tmp_path / "run", every=4)
    seed_all(5)
    learn.remove_cb(learn.cbs[-1])
    learn.fit(2, resume=True)
    assert_equal_runs(learn, whole)


# -- from which file ---------------------------------------------------------------------------------------------------


def test_a_file_a_folder_and_one_that_is_not_there(tmp_path, capsys):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole", every=5)
    for resume in (tmp_path / "whole" / step(10), str(tmp_path / "whole" / step(5)), tmp_path / "whole"):
        learn = tiny_learner([CheckpointCallback(tmp_path / str(len(str(resume))))])
        learn.fit(2, resume=resume)
        assert_equal_runs(learn, whole)
    learn = tiny_learner([CheckpointCallback(tmp_path / "new")])
    with pytest.raises(LearnerError, match=r"nothing.pt` cannot be read: .*No such file"):
        learn.fit(1, resume=tmp_path / "nothing.pt")
    assert learn.n_steps == 0
    capsys.readouterr()
    with pytest.raises(LearnerError, match=r"got '.*nowhere', where there is none; do `resume=True`"):
        learn.fit(1, resume=tmp_path / "nowhere")
    assert learn.n_steps == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "nowhere").exists()


def test_a_home_folder_is_expanded_wherever_a_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    learn = tiny_learner([CheckpointCallback("~/run")])
    learn.fit(1)
    learn.fit(2, resume="~/run")
    learn.save("~/a.pt")
    learn.load("~/a.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "a.pt"}


@pytest.mark.parametrize("resume", [1, 0, None, ["a"], b"a"])
def test_resume_must_be_yes_or_no_or_a_path(tmp_path, resume):
    learn = tiny_learner([CheckpointCallback(tmp_path)])
    with pytest.raises(TypeError, match="`resume` must be True, False or the path of a checkpoint, got"):
        learn.fit(1, resume=resume)


@pytest.mark.parametrize("resume", [True, "a.pt"])
def test_there_must_be_somebody_who_knows_where_the_checkpoints_are(resume):
    with pytest.raises(
        LearnerError, match=r"`resume` must have one callback .*got 0 in `cbs`; add a CheckpointCallback"
    ):
        tiny_learner(None).fit(1, resume=resume)


def test_a_file_of_save_is_none_of_a_fit(tmp_path):
    learn = tiny_learner([CheckpointCallback(tmp_path / "run")])
    learn.save(tmp_path / "learn.pt")
    with pytest.raises(LearnerError, match=r"`resume` must be a checkpoint of a fit, got .*learn.pt.*do `learn.load"):
        learn.fit(1, resume=tmp_path / "learn.pt")
    learn.fit(1)


def test_a_broken_newest_one_is_named_and_the_one_before_is_used(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole", every=2)
    stopped(tiny_learner, 2, 6, tmp_path / "run", every=2)
    newest = tmp_path / "run" / step(6)
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(RuntimeWarning, match=rf"`{newest}` cannot be read: .*`{step(4)}` is used instead"):
        learn = resumed(tiny_learner, 2, tmp_path / "run", every=2)
    assert_equal_runs(learn, whole)
    assert newest.with_name(f"{newest.name}.old").exists()


def test_where_all_are_broken_each_is_named_and_nothing_is_changed(tmp_path):
    uninterrupted(tiny_learner, 1, tmp_path, every=2)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    learn = tiny_learner([CheckpointCallback(tmp_path)])
    before = held(learn)
    with pytest.raises(LearnerError, match=r"(?s)no checkpoint in .* is whole:.*000006.*000004.*000002"):
        learn.fit(1, resume=True)
    assert differing(held(learn), before) == []


# -- what differs ------------------------------------------------------------------------------------------------------


class Renamed(Ema):
    pass


def standard(cbs, **changes):
    """Return a learner with much to differ in."""
    given = {"width": 8, "opt": torch.optim.AdamW, "n_train": 22, "batch_size": 4, "lr": 0.05, "every": 2, **changes}
    seed_all(0)
    model = nn.Sequential(nn.Linear(4, given["width"]), nn.BatchNorm1d(given["width"]), nn.Linear(given["width"], 3))
    dls = Loaders.from_arrays(
        train=data(given["n_train"]),
        valid=data(10, 22),
        batch_size=given["batch_size"],
        shuffle=given.get("shuffle", True),
    )
    dls = given.get("dls", lambda dls: dls)(dls)
    gated = type("Gated", (Callback,), {"every": given["every"], "after_batch": lambda self, learn: None})()
    own = given.get("own", [Ema(), AccumulateCallback(4), gated])
    return Learner(model, dls, nn.functional.cross_entropy, given["lr"], given["opt"], [*cbs, *own])


def two_groups(params, lr):
    return torch.optim.AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=lr)


GATED = type("Gated", (Callback,), {"every": 2, "after_batch": lambda self, learn: None})
DIFFERENT = {
    "classes": ({"width": 9}, r"model: '0\.weight' is torch.float32 \(9, 4\) here, torch.float32 \(8, 4\) saved"),
    "optimizer": ({"opt": torch.optim.SGD}, "the optimizer is SGD here, AdamW saved"),
    "groups": ({"opt": two_groups}, "the optimizer's parameter groups differ: .* here, .* saved"),
    "rate": ({"lr": 0.06}, "the learning rate is 0.06 here, 0.05 saved"),
    "samples": ({"n_train": 23}, "the number of samples of loader 'train' is 23 here, 22 saved"),
    "batches": ({"n_train": 20}, "the number of batches of loader 'train' is 5 here, 6 saved"),
    "batch size": ({"batch_size": 5}, "the batch size of loader 'train' is 5 here, 4 saved"),
    "sampler": ({"shuffle": False}, "the sampler of loader 'train' is SequentialSampler here, RandomSampler saved"),
    "names": (
        {"dls": lambda dls: {"train": dls.train, "valid2": dls.valid}},
        r"the loaders are \['train', 'valid2'\] here, \['train', 'valid'\] saved",
    ),
    "missing": ({"own": [AccumulateCallback(4), GATED()]}, "callback Ema is missing here"),
    "new": ({"own": [Ema(), AccumulateCallback(4), GATED(), Ema()]}, "callback Ema_2 is not in the file"),
    "renamed": (
        {"own": [Renamed(), AccumulateCallback(4), GATED()]},
        "callback Ema is missing here; callback Renamed is not in the file",
    ),
    "every": (
        {"every": 3},
        r"callbacks that are not always called are \['Gated every 3 batches of all'\] here, "
        r"\['Gated every 2 batches of all'\] saved",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_differs_is_listed_and_nothing_is_changed(tmp_path, kind):
    stopped(standard, 2, 4, tmp_path / "run")
    changes, message = DIFFERENT[kind]
    learn, fresh = (
        standard([CheckpointCallback(tmp_path / name)], **copy.deepcopy(changes)) for name in ("run", "fresh")
    )
    seed_all(3)
    before = held(learn)
    with pytest.raises(LearnerError, match=f"must be made as the saved one was, but .*{message}.*Nothing was changed"):
        learn.fit(2, resume=True)
    assert differing({**held(learn), "optimizer": None}, before) == []
    assert not learn.opt.state
    assert [path.name for path in sorted((tmp_path / "run").glob("*.pt"))] == [step(n) for n in (2, 3, 4)]
    for each in (learn, fresh):
        seed_all(4)
        each.fit(2)
    assert_equal_runs(learn, fresh)


def test_all_that_differs_is_listed_at_once(tmp_path):
    stopped(standard, 1, 2, tmp_path)
    with pytest.raises(LearnerError) as caught:
        standard([CheckpointCallback(tmp_path)], lr=1.0, opt=torch.optim.SGD, n_train=21, own=[]).fit(1, resume=True)
    for part in ("optimizer is SGD", "callback Ema is missing", "learning rate is 1.0", "number of samples"):
        assert part in str(caught.value)


def test_another_rate_given_to_the_fit_is_another_one(tmp_path):
    stopped(standard, 1, 2, tmp_path)
    with pytest.raises(LearnerError, match=r"the learning rate is 0.5 here, 0.05 saved"):
        standard([CheckpointCallback(tmp_path)]).fit(1, lr=0.5, resume=True)


def test_a_used_learner_is_left_as_it_was_too(tmp_path):
    stopped(standard, 1, 2, tmp_path / "run")
    learn = standard([CheckpointCallback(tmp_path / "own")])
    learn.fit(1)
    learn.dls = {"train": learn.dls.train}
    before = held(learn)
    with pytest.raises(LearnerError, match="the loaders are"):
        learn.fit(3, resume=tmp_path / "run" / step(2))
    after = held(learn)
    before["callbacks"] = after["callbacks"] = None  # they have heard `before_fit`
    before["loop"]["history"]["start"] = after["loop"]["history"]["start"]  # set anew by each fit
    assert differing(after, before) == []


def test_a_callback_may_say_itself_what_differs(tmp_path):
    class Windows(Callback):
        def __init__(self, n):
            self.n = n

        def state_dict(self):
            return {"n": self.n}

        def load_state_dict(self, state):
            raise AssertionError("nothing is to be put back")

        def differences(self, state):
            if state["n"] != self.n:
                yield f"`n` is {self.n} here, {state['n']} saved"

    stopped(lambda cbs: tiny_learner([*cbs, Windows(3)]), 1, 2, tmp_path)
    with pytest.raises(LearnerError, match="`n` is 4 here, 3 saved of callback Windows"):
        resumed(lambda cbs: tiny_learner([*cbs, Windows(4)]), 1, tmp_path)


def test_a_callback_that_keeps_nothing_is_told_of_and_no_more(tmp_path, capsys):
    Bar, Table = (type(name, (Callback,), {"after_batch": lambda self, learn: None}) for name in ("Bar", "Table"))  # noqa: N806
    whole = uninterrupted(tiny_learner, 1, tmp_path / "whole")
    stopped(lambda cbs: tiny_learner([*cbs, Bar()]), 1, 3, tmp_path / "run")
    learn = resumed(lambda cbs: tiny_learner([*cbs, Table(), Table()]), 1, tmp_path / "run")
    told = (
        "resume: without Bar, unlike before.\nresume: with Table, Table, unlike before.\nresume: goes on with batch 3"
    )
    assert capsys.readouterr().out.startswith(told)
    assert_equal_runs(learn, whole)


@pytest.mark.parametrize(
    ("what", "value", "word"), [("torch.get_num_threads", 64, "threads 64"), ("torch.__version__", "3.0", "torch 3.0")]
)
def test_another_machine_is_a_warning(tmp_path, monkeypatch, what, value, word):
    whole = uninterrupted(tiny_learner, 1, tmp_path / "whole")
    stopped(tiny_learner, 1, 3, tmp_path / "run")
    monkeypatch.setattr(what, value if isinstance(value, str) else lambda: value)
    with pytest.warns(RuntimeWarning, match=rf"may differ in the last bits .*: {word} here, .* saved\.$") as caught:
        learn = resumed(tiny_learner, 1, tmp_path / "run")
    assert len(caught) == 1
    assert_equal_runs(learn, whole)


def test_another_device_is_a_warning(tmp_path):
    stopped(tiny_learner, 1, 3, tmp_path)
    path = tmp_path / step(3)
    state = read_checkpoint(path)
    state["fit"]["machine"]["device"] = "cuda"
    write_checkpoint(path, state)
    with pytest.warns(RuntimeWarning, match="device cpu here, cuda saved"):
        resumed(tiny_learner, 1, tmp_path)


def workers_learner(cbs, **options):
    seed_all(0)
    loaders = {"train": DataLoader(TensorDataset(*data()), batch_size=4, shuffle=True, **options)}
    return Learner(nn.Linear(4, 3), loaders, nn.functional.cross_entropy, 0.1, cbs=cbs)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"num_workers": 2}),
        ({"num_workers": 2}, {}),
        ({"num_workers": 1}, {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}),
    ],
)
def test_how_a_loader_is_read_may_be_another_way(tmp_path, before, after):
    whole = uninterrupted(workers_learner, 2, tmp_path / "whole")
    stopped(partial(workers_learner, **before), 2, 8, tmp_path / "run")
    assert_equal_runs(resumed(partial(workers_learner, **after), 2, tmp_path / "run"), whole)


# -- what cannot be put back -------------------------------------------------------------------------------------------


class Fussy(Callback):
    """Understand nothing that was saved, after having changed itself."""

    def __init__(self, is_fussy=False):
        self.is_fussy, self.things = is_fussy, {"n": 1}

    def before_fit(self, learn):
        self.things["n"] = 2

    def state_dict(self):
        return {"n": 3}

    def load_state_dict(self, state):
        self.things["n"] = state["n"]
        if self.is_fussy:
            raise KeyError("scale")


def test_a_callback_that_does_not_understand_what_it_kept_leaves_all_as_it_was(tmp_path):
    make = lambda cbs, is_fussy: tiny_learner([*cbs, Ema(), Fussy(is_fussy)])
    stopped(partial(make, is_fussy=False), 2, 4, tmp_path / "run")
    learn, fresh = (make([CheckpointCallback(tmp_path / name)], is_fussy=True) for name in ("run", "fresh"))
    seed_all(3)
    before = held(learn)
    with pytest.raises(LearnerError, match=r"it could not be put back: KeyError: 'scale'\. Nothing was changed"):
        learn.fit(2, resume=True)
    assert differing({**held(learn), "optimizer": None}, before) == []
    assert not learn.opt.state
    assert learn.cbs[-1].things == {"n": 2}
    other = make([CheckpointCallback(tmp_path / "other")], is_fussy=True)
    with pytest.raises(LearnerError, match="KeyError: 'scale'"):
        other.load(tmp_path / "run" / step(4))
    assert other.opt is None
    for each in (learn, fresh):
        seed_all(4)
        each.fit(1)
    assert_equal_runs(learn, fresh)


def test_an_interrupt_while_it_is_put_back_leaves_all_as_it_was_too(tmp_path):
    class Slow(Fussy):
        def load_state_dict(self, state):
            raise KeyboardInterrupt

    learn = tiny_learner([Slow()])
    learn.save(tmp_path / "learn.pt")
    learn.fit(1)
    before = held(learn)
    with pytest.raises(KeyboardInterrupt):
        learn.load(tmp_path / "learn.pt")
    assert differing(held(learn), before) == []


def test_no_name_in_a_file_says_what_is_set(tmp_path):
    """Whoever wrote the file chose the names: they must not reach the path that another callback writes to."""

    class Logger(Callback):
        state = ("n",)

        def __init__(self):
            self.n, self.path = 0, "mine"

        def before_fit(self, learn):
            pass

    learn = tiny_learner([Logger()])
    learn.save(tmp_path / "learn.pt")
    state = read_checkpoint(tmp_path / "learn.pt")
    for names in ({"n": 1, "path": "/etc/theirs"}, {"path": "/etc/theirs"}, {}):
        state["callbacks"]["Logger"] = names
        write_checkpoint(tmp_path / "learn.pt", state)
        with pytest.raises(LearnerError, match=rf"`state` is \['n'\] here, {re.escape(str(sorted(names)))} saved"):
            learn.load(tmp_path / "learn.pt")
        assert vars(learn.cbs[0]) == {"n": 0, "path": "mine"}


JUNK = [
    None,
    0,
    -1,
    2**70,
    "x",
    b"x",
    [],
    {},
    [[]],
    {"a": 1},
    True,
    1.5,
    torch.zeros(3),
    torch.zeros(2, 2, dtype=torch.int8),
]


def places(value, path=()):
    """Yield the place of all that a nest holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value, path, act):
    """Return a nest with one place changed."""
    if not path:
        return act(value)
    key, *rest = path
    if isinstance(value, dict):
        result = {**value}
        if not rest and act is None:
            del result[key]
        else:
            result[key] = changed(value[key], rest, act)
        return result
    items = list(value)
    if not rest and act is None:
        del items[key]
    else:
        items[key] = changed(items[key], rest, act)
    return type(value)(items)


class Begun(Callback):
    """Stop a fit when all that it goes on from was put back."""

    order = -3000

    def before_epoch(self, learn):
        raise StoppedError


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_a_file_that_is_whole_and_makes_no_sense_is_an_error_that_changes_nothing(tmp_path, monkeypatch, draw):
    """Hundreds of them: one place of a good file is left out, or holds something else."""
    path = tmp_path / "run" / step(3)
    make = lambda cbs: tiny_learner([*cbs, Ema(), Begun()])
    if not path.exists():
        learn = make([CheckpointCallback(tmp_path / "run", 3)])
        learn.remove_cb(learn.cbs[-1])
        learn.fit(1)
    state = read_checkpoint(path)
    place = draw.draw(st.sampled_from([at for at in places(state) if at[:2] != ("rng", "python") or len(at) < 4]))
    junk = draw.draw(st.sampled_from(JUNK))
    state = changed(state, place, draw.draw(st.sampled_from([None, lambda value: junk])))
    for module in ("learner.checkpoint.saving", "learner.checkpoint.folder"):
        monkeypatch.setattr(f"{module}.read_checkpoint", lambda path: state)
    learn = make([CheckpointCallback(tmp_path / "own")])
    before = {**held(learn), "callbacks": None, "optimizer": None}
    calls = [lambda: learn.load(path), lambda: learn.fit(1, resume=path)]
    for call in draw.draw(st.permutations(calls)):
        try:
            call()
        except LearnerError:
            assert differing({**held(learn), "callbacks": None, "optimizer": None}, before) == []
        except StoppedError:
            return  # it was a place that does not matter, or a number like any other
        else:
            return


# -- load --------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_in_the_middle_of_a_pass_can_be_loaded_between_two_fits(tmp_path):
    """Train/eval flags are those outside of the pass, and nothing of the schedule stays."""

    def make(cbs):
        learn = tiny_learner([*cbs, SchedulerCallback(ONE_CYCLE)])
        learn.model.eval()  # which is lifted for a pass
        return learn

    stopped(make, 2, 3, tmp_path / "run")
    learn = make([CheckpointCallback(tmp_path / "own")])
    learn.model.train()
    learn.load(tmp_path / "run" / step(3))
    assert not any(module.training for module in learn.model.modules())
    fresh = torch.optim.AdamW(learn.model.parameters(), 0.05)
    for group, expected in zip(learn.opt.param_groups, fresh.param_groups, strict=True):
        assert {**group, "lr": 0, "params": 0} == {**expected, "lr": 0, "params": 0}
    assert learn.n_steps == 3


def test_the_next_schedule_begins_where_it_would_without_the_one_before(tmp_path):
    class Rates(Callback):
        def __init__(self):
            self.seen = []

        def after_step(self, learn):
            self.seen.append((learn.opt.param_groups[0]["lr"], learn.opt.param_groups[0]["betas"]))

    make = lambda cbs: tiny_learner(
        [*cbs, SchedulerCallback(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5))]
    )
    stopped(make, 2, 3, tmp_path / "run")
    seen = []
    for path in (None, tmp_path / "run" / step(3)):
        learn = make([CheckpointCallback(tmp_path / f"own {path is None}")])
        rates = Rates()
        if path:
            learn.load(path)
        learn.fit(1, lr=0.4, cbs=rates)
        seen.append(rates.seen)
    assert seen[0] == seen[1]


def test_options_that_a_callback_of_the_users_own_changes_are_put_back_too(tmp_path):
    class Warm(Callback):
        def before_fit(self, learn):
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(learn.opt, 0.1, total_steps=50)

        def after_step(self, learn):
            self.schedule.step()

    make = lambda cbs: tiny_learner([*cbs, Warm()])
    with pytest.warns(RuntimeWarning, match=r"but not `Warm\.schedule`"):
        stopped(make, 2, 3, tmp_path / "run")
    learn = make([CheckpointCallback(tmp_path / "own")])
    learn.load(tmp_path / "run" / step(3))
    assert learn.opt.param_groups[0]["betas"] == (0.9, 0.999)
    assert not {"initial_lr", "max_lr", "min_lr"} & learn.opt.param_groups[0].keys()


@pytest.mark.filterwarnings("ignore:`opt_func` leaves out")
def test_groups_that_came_during_the_fit_stay_as_they_are(tmp_path):
    class Unfreeze(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1 and learn.training and len(learn.opt.param_groups) == 1:
                learn.opt.add_param_group({"params": list(learn.model[3].parameters()), "weight_decay": 0.5})

    def make(cbs, n=1):
        opt = lambda params, lr: torch.optim.AdamW([{"params": params[:-2]}, {"params": params[-2:]}][:n], lr=lr)
        return tiny_learner([*cbs, Unfreeze()], opt_func=opt)

    stopped(make, 2, N_BATCHES + 2, tmp_path / "run")
    learn = make([CheckpointCallback(tmp_path / "own")], n=2)
    learn.load(tmp_path / "run" / step(8))
    assert [group["weight_decay"] for group in learn.opt.param_groups] == [0.01, 0.5]


# -- models ------------------------------------------------------------------------------------------------------------


class Buffers(nn.Module):
    """Buffers that are kept, that are not, and that are None until they are used or after it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("n_calls", torch.zeros(()))
        self.register_buffer("n_hidden", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("cache", None)
        self.register_buffer("hidden_cache", None, persistent=False)
        self.register_buffer("first", torch.ones(2))
        self.register_buffer("never", None)

    def forward(self, x):
        self.n_calls += 1
        self.n_hidden += 1
        scale = 1.0 if self.cache is None else self.cache.mean() + self.hidden_cache.mean()
        self.cache, self.hidden_cache, self.first = x.detach()[0].clone(), x.detach()[1].clone(), None
        return self.head(x * (1 + 0.1 * scale)) + 0.01 * self.n_hidden


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)
        self.net[1].eval()
        self.net[0].weight.requires_grad_(False)

    def forward(self, x):
        return self.head(self.net(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(x)))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs()


class Low(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3).bfloat16()

    def forward(self, x):
        return self.net(x.bfloat16()).float()


class Extra(nn.Module):
    """State of a module's own."""

    def __init__(self):
        super().__init__()
        self.head, self.n = nn.Linear(4, 3), 0

    def get_extra_state(self):
        return {"n": self.n}

    def set_extra_state(self, state):
        self.n = state["n"]

    def forward(self, x):
        self.n += 1
        return self.head(x) + 0.1 * self.n


MODELS = {
    "buffers": Buffers,
    "frozen": Frozen,
    "eval": Frozen,
    "tied": Tied,
    "lazy": lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
    "complex": Complex,
    "bfloat16": Low,
    "extra": Extra,
}


def model_learner(cbs, kind, wrap=lambda model: model):
    seed_all(0)
    dls = Loaders.from_arrays(train=data(), valid=data(10, 22), batch_size=4)
    model = wrap(MODELS[kind]())
    if kind == "eval":  # which is lifted for a pass that trains
        model.eval()
    return Learner(model, dls, nn.functional.cross_entropy, 0.05, torch.optim.AdamW, cbs)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:.*weight_norm.*is deprecated")
def test_all_kinds_of_models_go_on(tmp_path, kind):
    whole, gone_on = resumed_from_each(partial(model_learner, kind=kind), 2, tmp_path)
    assert len(gone_on) == 12
    for learn in gone_on:
        assert_equal_runs(learn, whole)


WRAPPERS = {
    "none": lambda model: model,
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("kind", ["frozen", "eval"])
@pytest.mark.parametrize(
    ("saved", "here"), [("parallel", "none"), ("compiled", "none"), ("none", "both"), ("none", "parallel")]
)
def test_a_wrapper_may_come_or_go(tmp_path, saved, here, kind):
    whole = uninterrupted(partial(model_learner, kind=kind), 2, tmp_path / "whole")
    stopped(partial(model_learner, kind=kind, wrap=WRAPPERS[saved]), 2, 3, tmp_path / "run")
    learn = resumed(partial(model_learner, kind=kind, wrap=WRAPPERS[here]), 2, tmp_path / "run")
    assert_equal_runs(learn, whole)


def test_flags_of_a_wrapper_are_those_of_what_it_wraps(tmp_path):
    saved, other = (model_learner([], "frozen", nn.DataParallel) for _ in range(2))
    saved.model.eval()
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    assert [module.training for module in other.model.modules()] == [False] * 7


def test_a_layer_that_a_callback_freezes_in_the_last_epoch_stays_frozen(tmp_path):
    class Freeze(Callback):
        def after_batch(self, learn):
            if learn.epoch == 1 and learn.i == 2 and learn.training:
                learn.model[1].eval()
                learn.model[0].requires_grad_(False)

    def make(cbs):  # the pass in which it freezes is the last one of the fit
        learn = tiny_learner([*cbs, Freeze()])
        learn.dls = {"valid": learn.dls.valid, "train": learn.dls.train}
        return learn

    whole = uninterrupted(make, 3, tmp_path / "whole")
    uninterrupted(make, 2, tmp_path / "run")
    assert_equal_runs(resumed(make, 3, tmp_path / "run"), whole)
    assert not whole.model[1].training
    for stop_at in range(N_BATCHES, 2 * N_BATCHES, 2):
        assert_equal_runs(stopped_and_resumed(make, 3, stop_at, tmp_path / str(stop_at)), whole)


class Heads(nn.Module):
    """Two heads, of which a batch uses one: the other has no gradient, or an older one."""

    def __init__(self):
        super().__init__()
        self.heads, self.n = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]), 0
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.n_calls += 1
        return self.heads[int(self.n_calls) % 7 == 0](x)


def test_gradients_of_an_open_window_go_along_and_none_stays_none(tmp_path):
    """AdamW moves a parameter whose gradient is zero, and not one that has none."""

    def make(cbs):
        seed_all(0)
        dls = Loaders.from_arrays(train=data(), valid=data(10, 22), batch_size=4)
        cbs = [*cbs, AccumulateCallback(4)]
        return Learner(Heads(), dls, nn.functional.cross_entropy, 0.05, torch.optim.AdamW, cbs)

    whole, gone_on = resumed_from_each(make, 2, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    first = read_checkpoint(tmp_path / "whole" / step(1))["fit"]["gradients"]
    assert [grad is None for grad in first.values()] == [False, False, True, True]
    full = read_checkpoint(tmp_path / "whole" / step(4))["fit"]["gradients"]
    assert list(full.values()) == [None] * 4


# -- loaders and loops -------------------------------------------------------------------------------------------------


def with_loaders(cbs, **loaders):
    seed_all(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    return Learner(model, loaders, nn.functional.cross_entropy, 0.05, torch.optim.AdamW, cbs)


class Unsized:
    """Batches of nobody's kind, without a length, the same in each pass."""

    def __init__(self, start, n):
        self.batches = [data(4, start + 4 * i) for i in range(n)]

    def __iter__(self):
        return iter(self.batches)


def several(cbs):
    loader = lambda n, start, **options: DataLoader(TensorDataset(*data(n, start)), batch_size=4, **options)
    return with_loaders(
        cbs,
        train=loader(10, 0, shuffle=True),
        valid=loader(6, 10),
        train2=loader(8, 16, shuffle=True),
        infer=loader(8, 24),
    )


def unsized(cbs):
    return with_loaders(cbs, train=Unsized(0, 4), valid=Unsized(16, 2))


def lists(cbs):
    return with_loaders(
        cbs, train=[data(4, 4 * i) for i in range(4)], infer_more=[data(4, 16)], valid=[data(4, 20)] * 2
    )


def valid_first(cbs):
    dls = Loaders.from_arrays(valid=data(8, 22), train=data(), batch_size=4)
    return with_loaders(cbs, **dls)


LOADERS = {"several": (several, 9), "unsized": (unsized, 6), "lists": (lists, 7), "valid first": (valid_first, 8)}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.filterwarnings("ignore:loader .* must give the same")
def test_it_goes_on_in_any_pass_of_any_loader(tmp_path, kind):
    make, n_batches = LOADERS[kind]
    whole = uninterrupted(make, 2, tmp_path / "whole", every=2)
    for stop_at in range(2 * n_batches):
        by_interrupt = stop_at % 3 > 0  # then it goes on from there, else from a batch or two before
        learn = stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at), every=2, by_interrupt=by_interrupt)
        assert_equal_runs(learn, whole)
    assert len(whole.history) == 2


class Bare(DataLoader):
    """A loader with a way of its own."""

    def __iter__(self):
        return super().__iter__()


def test_of_a_loader_that_is_read_again_it_says_so_and_is_exact(tmp_path, capsys):
    def make(cbs):
        return with_loaders(cbs, train=Bare(TensorDataset(*data()), batch_size=4, shuffle=True))

    whole = uninterrupted(make, 2, tmp_path / "whole")
    for stop_at in (2, 7, 11):
        assert_equal_runs(stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at)), whole)
        words = (
            f"resume: reads {stop_at % 6} batches of loader 'train' again, since it is a Bare, not a plain DataLoader"
        )
        assert words in capsys.readouterr().out


def test_epochs_of_a_callbacks_own(tmp_path, capsys):
    class Odd(Callback):
        def before_fit(self, learn):
            learn.epochs = [5, 3, 8, 1]

    make = lambda cbs: tiny_learner([*cbs, Odd()])
    whole = uninterrupted(make, 2, tmp_path / "whole")
    assert [row["epoch"] for row in whole.history] == [5, 3, 8, 1]
    for stop_at in (4, N_BATCHES + 1, 2 * N_BATCHES + 4, 3 * N_BATCHES + 8):
        learn = stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at))
        assert_equal_runs(learn, whole)
        assert f"epoch {stop_at // N_BATCHES} of 4 (" in capsys.readouterr().out
    resumed(make, 2, tmp_path / "whole")
    assert "has 4 epochs done of 4; nothing is left" in capsys.readouterr().out


def test_epochs_without_an_end(tmp_path, capsys):
    class Endless(Callback):
        def before_fit(self, learn):
            learn.epochs = count()

        def after_epoch(self, learn):
            if learn.epoch == 2:
                raise CancelFitException

    make = lambda cbs: tiny_learner([*cbs, Endless()])
    whole = uninterrupted(make, 1, tmp_path / "whole")
    learn = stopped_and_resumed(make, 1, N_BATCHES + 4, tmp_path / "run")
    assert_equal_runs(learn, whole)
    assert "resume: goes on with batch 4 of loader 'train' in epoch 1 (/" in capsys.readouterr().out


def test_a_validation_in_the_middle_of_an_epoch(tmp_path):
    make = lambda cbs: tiny_learner([*cbs, ValidateCallback(every=2)])
    whole = uninterrupted(make, 2, tmp_path / "whole")
    plain = uninterrupted(tiny_learner, 2, tmp_path / "plain")
    assert differing(snapshot(whole)["model"], snapshot(plain)["model"]) == []
    for stop_at in range(0, 2 * N_BATCHES, 3):
        assert_equal_runs(stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at)), whole)


class Cancel(Callback):
    """Cancel something at a place that depends on the position alone."""

    def __init__(self, error, signal, i, name="train"):
        self.error, self.i, self.name = error, i, name
        setattr(self, signal, self.hear)

    def hear(self, learn):
        if learn.i == self.i and learn.dl_name == self.name and learn.epoch == 1:
            raise self.error


@pytest.mark.parametrize(
    ("error", "signal", "i", "name"),
    [
        (CancelBatchException, "before_batch", 2, "train"),
        (CancelBatchException, "after_backward", 2, "train"),
        (CancelBatchException, "after_batch", 5, "train"),
        (CancelEpochException, "after_loss", 3, "train"),
        (CancelEpochException, "before_epoch", 0, "train"),
        (CancelEpochException, "before_batch", 1, "valid"),
        (CancelEpochException, "after_epoch", 2, "valid"),
    ],
)
def test_cancels_before_and_after_the_place_where_it_goes_on(tmp_path, error, signal, i, name):
    make = lambda cbs: tiny_learner([*cbs, Cancel(error, signal, i, name)])
    whole = uninterrupted(make, 3, tmp_path / "whole", every=2)
    for stop_at in range(N_BATCHES + 1, 3 * N_BATCHES - 8, 3):
        learn = stopped_and_resumed(make, 3, stop_at, tmp_path / str(stop_at), 2, by_interrupt=stop_at % 2 > 0)
        assert_equal_runs(learn, whole)


def test_averages_are_exact(tmp_path):
    """The mean over a pass, and what was logged, as if it had been one pass; also in a row that is half done."""

    class Log(Callback):
        def after_loss(self, learn):
            learn.log(double=2 * learn.loss.detach(), one=1.0)

    make = lambda cbs: tiny_learner([*cbs, Log()])
    whole = uninterrupted(make, 1, tmp_path / "whole")
    for stop_at in range(1, N_BATCHES):
        learn = stopped_and_resumed(make, 1, stop_at, tmp_path / str(stop_at), "epoch", by_interrupt=True)
        assert learn.history.rows == whole.history.rows
        assert learn.metrics == whole.metrics
    assert set(whole.history.rows[0]) == {
        "epoch",
        *(f"{n}/{m}" for n in ("train", "valid") for m in ("loss", "double", "one")),
    }


def test_random_numbers_that_callbacks_draw_are_those_that_they_would_have_drawn(tmp_path):
    """In passes that do not train, too, where drawing leaves no trace in the training."""

    class Draw(Callback):
        state = ("sum",)

        def __init__(self):
            self.sum = 0.0

        def draw(self, learn):
            self.sum = 0.5 * self.sum + float(torch.rand(()))

        before_fit = before_epoch = after_batch = draw

    make = lambda cbs: tiny_learner([*cbs, Draw()])
    whole = uninterrupted(make, 2, tmp_path / "whole")
    for stop_at in range(2 * N_BATCHES - 1):
        learn = stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at), "epoch", by_interrupt=True)
        assert_equal_runs(learn, whole)
        assert learn.cbs[-1].sum == whole.cbs[-1].sum


def test_what_a_callback_of_every_so_often_has_counted_goes_along(tmp_path):
    class Third(Callback):
        every = 4
        state = ("heard",)

        def __init__(self):
            self.heard = []

        def before_fit(self, learn):
            self.heard = []

        def after_batch(self, learn):
            self.heard.append((learn.epoch, learn.dl_name, learn.i))

    make = lambda cbs: tiny_learner([*cbs, Third()])
    whole = uninterrupted(make, 2, tmp_path / "whole")
    for stop_at in range(1, 2 * N_BATCHES, 4):
        learn = stopped_and_resumed(make, 2, stop_at, tmp_path / str(stop_at), by_interrupt=True)
        assert learn.cbs[-1].heard == whole.cbs[-1].heard
    assert len(whole.cbs[-1].heard) == 4


# -- what callbacks keep -----------------------------------------------------------------------------------------------


class Keeper(Callback):
    """Keep whatever it is given, and read it as it was when the fit goes on."""

    state = ("value",)

    def __init__(self, value=None):
        self.value, self.seen = value, None

    def after_batch(self, learn):
        self.seen = self.value


keys = st.one_of(st.text(max_size=3), st.integers(-9, 9), st.booleans(), st.none())
atoms = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
)
nests = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=nests, second=nests)
def test_whatever_two_callbacks_of_one_class_keep_comes_back_to_each(tmp_path, first, second):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    batches = [(torch.ones(1, 2), torch.ones(1, 1))] * 2

    def make(*values):
        keepers = [CheckpointCallback(tmp_path / "run", 1), *map(Keeper, values)]
        return Learner(nn.Linear(2, 1), {"train": batches}, nn.functional.mse_loss, 0.1, cbs=keepers)

    learn = make(first, second)
    with pytest.raises(StoppedError):
        learn.fit(1, cbs=StopAt(1))
    again = make()
    again.add_cb([Keeper(), Keeper("other")])
    again.fit(1, resume=True)
    for cb, value in zip(again.cbs[1:], (first, second), strict=True):
        assert differing([cb.seen], [value]) == []
        assert [type(item) for _, item in leaves([cb.seen])] == [type(item) for _, item in leaves([value])]


def test_a_scaler_goes_along_by_its_own_methods(tmp_path):
    """As that of mixed precision: it grows every other step, and its scale is what the step is made with."""

    class Scaler:
        def __init__(self):
            self.scale, self.n = torch.tensor(4.0), 0

        def state_dict(self):
            return {"scale": self.scale, "n": self.n}

        def load_state_dict(self, state):
            self.scale, self.n = state["scale"], state["n"]

    class Mixed(Callback):
        state = ("scaler",)

        def before_fit(self, learn):
            self.scaler = Scaler()

        def around_backward(self, learn, action):
            learn.loss = learn.loss * self.scaler.scale
            action()

        def after_step(self, learn):
            self.scaler.n += 1
            if self.scaler.n % 2 == 0:
                self.scaler.scale *= 2

    make = lambda cbs: tiny_learner([*cbs, Mixed()], opt_func=torch.optim.SGD)
    whole, gone_on = resumed_from_each(make, 1, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert isinstance(learn.cbs[-1].scaler, Scaler)
        assert learn.cbs[-1].scaler.scale == whole.cbs[-1].scaler.scale == 32


def test_callbacks_hear_that_a_pass_begins_in_the_middle_and_get_their_state_after_it(tmp_path):
    class Watch(Callback):
        state = ("n",)

        def __init__(self):
            self.n, self.heard = 0, []

        def before_fit(self, learn):
            self.heard.append(("fit", learn.is_resumed, self.n))
            self.n = 0

        def before_epoch(self, learn):
            self.heard.append((learn.dl_name, learn.i, self.n))
            self.n = 0

        def after_batch(self, learn):
            self.n += 1

    make = lambda cbs: tiny_learner([*cbs, Watch()])
    learn = stopped_and_resumed(make, 1, 4, tmp_path)
    assert learn.cbs[-1].heard == [("fit", True, 0), ("train", 4, 4), ("valid", 0, 6)]


def test_tensors_that_were_on_the_device_of_the_model_come_back_to_it():
    """Files hold them on the CPU; a mean that is kept on a GPU has to be there again."""
    there = torch.empty(2, device="meta")
    kept = {"a": [there, torch.ones(1)], "b": {"c": (there, 1)}, "d": torch.ones(1), "e": "text", "f": [1, 2]}
    devices = devices_of(kept)
    assert devices == {"a": {0: True}, "b": {"c": {0: True}}}
    on_cpu = {"a": [torch.ones(2), torch.ones(1)], "b": {"c": (torch.ones(2), 1)}, **{k: kept[k] for k in "def"}}
    back = put_on(on_cpu, devices, torch.device("meta"))
    assert {where: item.device.type for where, item in leaves(back) if isinstance(item, torch.Tensor)} == {
        "['a'][0]": "meta",
        "['a'][1]": "cpu",
        "['b']['c'][0]": "meta",
        "['d']": "cpu",
    }
    assert isinstance(back["b"]["c"], tuple)
    assert back["f"] == [1, 2]


class Shows(Callback):
    """Shows something, and remembers what."""

    order = 100
    state = ("n_shown",)

    def __init__(self):
        self.n_shown = 0

    def after_batch(self, learn):
        self.n_shown += 1


@pytest.mark.parametrize(("then", "now", "word"), [([Shows], [], "without"), ([], [Shows], "with")])
def test_what_only_shows_may_come_and_go(tmp_path, capsys, then, now, word):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole")
    stopped(lambda cbs: tiny_learner([*cbs, *(make() for make in then)]), 2, 3, tmp_path / "run")
    learn = resumed(lambda cbs: tiny_learner([*cbs, *(make() for make in now)]), 2, tmp_path / "run")
    assert f"resume: {word} Shows, unlike before." in capsys.readouterr().out
    assert torch.equal(learn.model[0].weight, whole.model[0].weight)


def test_what_a_person_may_have_meant_to_change_is_said_to_be_as_it_was(tmp_path, capsys):
    def frozen(cbs):
        learn = tiny_learner(cbs)
        learn.model[0].requires_grad_(False)
        return learn

    def changed(cbs):
        learn = tiny_learner(cbs)
        learn.opt_func = partial(torch.optim.AdamW, weight_decay=0.5)
        return learn

    whole = uninterrupted(frozen, 2, tmp_path / "whole")
    stopped(frozen, 2, 3, tmp_path / "run")
    learn = resumed(changed, 2, tmp_path / "run")
    said = capsys.readouterr().out
    assert "resume: `requires_grad` of 0.weight, 0.bias is as in the checkpoint, not as it was here." in said
    assert "resume: `weight_decay` of the optimizer's group 0 is 0.01 as in the checkpoint, not 0.5." in said
    assert_equal_runs(learn, whole)
