"""Whatever one of several processes does, all end alike, within seconds, and the error of the one to blame is shown."""

import os
import signal
import time

import pytest
import torch
from torch import nn

from callbacks import CSVLoggerCallback, DistributedCallback, MetricsCallback, mse
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
    PostponeStepException,
)
from learner.ranks import launch
from tests.ranks import TIMEOUT, error_of, in_each, weights

LIMIT = TIMEOUT / 2  # [s] for a fit of 24 batches, in which one does something: who waits in vain takes longer
WORLDS = (2, 4)


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


def failed():
    raise RuntimeError("my own error")


def raising(kind):
    def act():
        raise kind

    return act


# Where the second process does what, in the second epoch; how it ends, and after how many steps.
CASES = {
    "CancelBatch before a batch": ("before_batch", raising(CancelBatchException), None, 23),
    "CancelBatch after the loss": ("after_loss", raising(CancelBatchException), None, 23),
    "CancelBatch after backward": ("after_backward", raising(CancelBatchException), None, 23),
    "CancelBatch after a batch": ("after_batch", raising(CancelBatchException), None, 24),
    "CancelStep after the loss": ("after_loss", raising(CancelStepException), None, 23),
    "CancelStep after backward": ("after_backward", raising(CancelStepException), None, 23),
    "PostponeStep after backward": ("after_backward", raising(PostponeStepException), None, 23),
    "CancelEpoch before the step": ("after_loss", raising(CancelEpochException), None, 19),
    "CancelEpoch after the step": ("after_batch", raising(CancelEpochException), None, 20),
    "CancelFit before the step": ("after_loss", raising(CancelFitException), None, 11),
    "CancelFit after the step": ("after_batch", raising(CancelFitException), None, 12),
    "CancelBatch in a validation": ("valid", raising(CancelBatchException), None, 24),
    "CancelEpoch in a validation": ("valid", raising(CancelEpochException), None, 24),
    "CancelFit in a validation": ("valid", raising(CancelFitException), None, 16),
    "SIGTERM before the step": ("after_loss", interrupt, "SystemExit: 143", 12),
    "SIGTERM after the step": ("after_batch", interrupt, "SystemExit: 143", 13),
    "SIGTERM in a validation": ("valid", interrupt, "SystemExit: 143", 17),
    "an error before the step": ("after_loss", failed, "RuntimeError: my own error", 11),
    "an error after the step": ("after_batch", failed, "RuntimeError: my own error", 12),
    "an error in a validation": ("valid", failed, "RuntimeError: my own error", 16),
    "an error between two passes": ("after_epoch", failed, "RuntimeError: my own error", 16),
    "an error before the first batch": ("before_fit", failed, "RuntimeError: my own error", 0),
    "an error when all is done": ("after_fit", failed, "RuntimeError: my own error", 24),
}


class Act(Callback):
    """Do something at one place in the second process alone."""

    def __init__(self, place, act):
        self.place, self.act = place, act

    def _at(self, learn, place):
        if self.place == place and learn.job.rank == 1:
            self.act()

    def _in_training(self, learn, place):
        if learn.training and (learn.epoch, learn.i) == (1, 3):
            self._at(learn, place)

    def before_fit(self, learn):
        self._at(learn, "before_fit")

    def before_batch(self, learn):
        self._in_training(learn, "before_batch")
        if learn.dl_name == "valid" and learn.epoch == 1:
            self._at(learn, "valid")

    def after_loss(self, learn):
        self._in_training(learn, "after_loss")

    def after_backward(self, learn):
        self._in_training(learn, "after_backward")

    def after_batch(self, learn):
        self._in_training(learn, "after_batch")

    def after_epoch(self, learn):
        if learn.training and learn.epoch == 1:
            self._at(learn, "after_epoch")

    def after_fit(self, learn):
        self._at(learn, "after_fit")


def data():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return {"train": list(zip(x.split(8), y.split(8), strict=True)), "valid": [(x[:10], y[:10])]}


def learner(cbs, **changes):
    torch.manual_seed(0)
    given = {"model": nn.Linear(4, 1), "dls": data(), "loss_f": nn.functional.mse_loss, "lr": 0.05}
    return Learner(cbs=cbs, **{**given, **changes})


def act_all(agree):
    DistributedCallback(timeout=TIMEOUT)  # the job, which all of the cases below are in
    ended = {}
    for case, (place, act, _, _) in CASES.items():
        if agree == "batch" and place == "after_backward":
            continue  # is not agreed on, and refused: see below
        learn = learner([DistributedCallback(timeout=TIMEOUT, agree=agree), MetricsCallback(mse), Act(place, act)])
        start = time.perf_counter()
        error = error_of(learn.fit, 3)
        seconds = time.perf_counter() - start
        ended[case] = error, learn.n_steps, learn.n_samples, learn.history.to_dict(), weights(learn), seconds
    return ended


@pytest.fixture(scope="module", params=[(2, "step"), (4, "step"), (2, "batch")], ids=str)
def ended(request):
    n, agree = request.param
    return in_each(n, act_all, agree)


@pytest.mark.parametrize("case", CASES)
def test_all_end_alike_and_soon(ended, case):
    if case not in ended[0]:
        return
    _, _, expected, n_steps = CASES[case]
    for rank, each in enumerate(ended):
        error, steps, _, history, its_weights, seconds = each[case]
        own = expected is None or "SystemExit" in expected or rank == 1
        assert error == (expected if own else f"OtherProcessError: rank 1 has failed: {expected} (this is rank {rank})")
        assert steps == n_steps
        assert torch.equal(its_weights, ended[0][case][4])
        assert history == ended[0][case][3]
        assert seconds < LIMIT
        if expected is None:
            assert each[case][2] == ended[0][case][2]  # samples


@pytest.mark.parametrize("agree", ["batch", None])
def test_what_was_not_agreed_on_is_found_out_at_the_end_of_the_pass(agree):
    def leave_out():
        act = Act("after_backward", raising(CancelStepException))
        return error_of(learner([DistributedCallback(timeout=TIMEOUT, agree=agree), act]).fit, 3)

    for error in in_each(2, leave_out):
        assert error.startswith("LearnerError: all processes must hold the same weights after a pass, but those of ")
        assert "of rank 1 differ from those of rank 0, after 15 and 16 steps" in error


def test_an_error_in_backward_ends_all():
    """Out of memory there: the others wait for its gradients, and hear of it by the end of the process."""

    class OutOfMemory(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if os.environ["RANK"] == "1":
                raise MemoryError("out of memory")
            return grad

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.b(OutOfMemory.apply(self.a(x)))

    def fit():
        learner(DistributedCallback(timeout=TIMEOUT), model=Model()).fit(1)

    with pytest.raises(MemoryError, match="out of memory"):
        launch(fit, 2)


# -- what they have to have in common ----------------------------------------------------------------------------------


def disagree_on_all():
    rank = DistributedCallback(timeout=TIMEOUT).rank
    one_more = {"train": [*data()["train"], *data()["train"][: rank == 1]], "valid": data()["valid"]}
    changes = {
        "model": ({"model": nn.Linear(4, 1 + (rank == 1))}, {"n_epochs": 1}),
        "class": ({"model": nn.Linear(4, 1) if rank != 1 else nn.Sequential(nn.Linear(4, 1))}, {"n_epochs": 1}),
        "loader": ({"dls": one_more}, {"n_epochs": 1}),
        "names": ({"dls": {"train" if rank != 1 else "train2": data()["train"]}}, {"n_epochs": 1}),
        "callbacks": ({"cbs": [MetricsCallback(mse)][: rank != 1]}, {"n_epochs": 1}),
        "epochs": ({}, {"n_epochs": 2 + rank}),
        "steps": ({}, {"n_epochs": 2} if rank != 1 else {"steps": 2}),
        "lr": ({}, {"n_epochs": 1, "lr": 0.1 * (rank + 1)}),
        "nothing": ({}, {"n_epochs": 1}),
    }
    told = {}
    for name, (given, fit) in changes.items():
        cbs = [DistributedCallback(timeout=TIMEOUT), *given.pop("cbs", [])]
        learn = learner(cbs, **given)
        told[name] = error_of(lambda learn=learn, fit=fit: learn.fit(**fit)), learn.n_steps
    return told


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def told(request):
    return in_each(request.param, disagree_on_all)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model", "the same model, but `weight` is (1, 4) torch.float32 on rank 0, (2, 4) torch.float32 on rank 1"),
        ("class", "the same model, but its class is Linear on rank 0, Sequential on rank 1"),
        ("loader", "the same loaders, but train is list with 8 batches on rank 0, list with 9 batches on rank 1"),
        ("names", "the same loaders, but train is list with 8 batches on rank 0, missing on rank 1"),
        ("callbacks", "the same callbacks, but number 1 is MetricsCallback on rank 0, missing on rank 1"),
        ("epochs", "the same fit, but n_epochs is 2 on rank 0, 3 on rank 1"),
        ("steps", "the same fit, but n_epochs is 2 on rank 0, None on rank 1"),
        ("lr", "the same fit, but lr is 0.1 on rank 0, 0.2 on rank 1"),
    ],
)
def test_what_differs_is_one_error_before_the_first_batch(told, name, said):
    for each in told:
        error, n_steps = each[name]
        assert error.startswith(f"LearnerError: all processes must have {said}; make them from the same script")
        assert n_steps == 0


def test_after_a_refusal_they_may_go_on(told):
    assert [each["nothing"] for each in told] == [(None, 8)] * len(told)


def shuffled_by_each():
    """A loader that cannot be shared, and gives each process another order."""
    rank = DistributedCallback(timeout=TIMEOUT).rank
    batches = data()["train"]
    learn = learner(
        DistributedCallback(timeout=TIMEOUT), dls={"train": [*batches[rank:], *batches[:rank]], "valid": batches[:1]}
    )
    return error_of(learn.fit, 1)


def test_a_loader_that_gives_each_process_other_batches_is_refused():
    for error in in_each(2, shuffled_by_each):
        assert error.startswith("LearnerError: each process must read the same batches of loader 'train'")
        assert "the first one of rank 1 is another than that of rank 0" in error


# -- parts without a gradient ------------------------------------------------------------------------------------------


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return self.used(x)


def without_gradients():
    DistributedCallback(timeout=TIMEOUT)
    found = {}
    for finds in (False, True):
        learn = learner(DistributedCallback(timeout=TIMEOUT, find_unused_parameters=finds), model=Unused())
        try:
            learn.fit(2)
            found[finds] = learn.n_steps
        except RuntimeError as error:
            found[finds] = [str(error), *error.__notes__]
    return found


def test_a_part_that_gets_no_gradient_is_named_with_the_option_that_helps():
    for each in in_each(2, without_gradients):
        message, *notes = each[False]
        assert "Expected to have finished reduction in the prior iteration" in message
        (note,) = [note for note in notes if "no gradient has come to" in note]
        assert "idle.weight, idle.bias; freeze what is not used" in note
        assert "DistributedCallback(find_unused_parameters=True)" in note
        assert each[True] == 16


# -- what the first alone does -----------------------------------------------------------------------------------------


class Asks(Callback):
    ranks = "first"

    def after_epoch(self, learn):
        learn.validate()


def test_a_callback_of_the_first_alone_must_not_ask_the_others(tmp_path):
    def fit():
        cbs = [DistributedCallback(timeout=TIMEOUT), CSVLoggerCallback(tmp_path / "log.csv"), Asks()]
        learner(cbs).fit(1)

    with pytest.raises(LearnerError, match="`ranks = 'first'` has asked for it; leave that out"):
        launch(fit, 2)
