"""Any number of processes that hold a part of the model each is the same training as one that holds all of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import callbacks
from callbacks import ShardCallback
from callbacks.scale.sharding import require_all_sharded
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
)
from learner.ranks import launch

ROOT = Path(__file__).parents[3]
CASES: dict[str, Any] = {
    "nothing more": list,
    "clip": lambda: [callbacks.ClipGradientCallback(0.3)],
    "accumulate and clip": lambda: [callbacks.AccumulateCallback(3), callbacks.ClipGradientCallback(0.3)],
    "an average": lambda: [callbacks.EMACallback(0.9)],
    "an average of the last epochs": lambda: [callbacks.SWACallback(0.4)],
    "the best": lambda: [callbacks.BestModelCallback(restore=True)],
    "frozen at first": lambda: [callbacks.FreezeCallback("0", until=1)],
    "sharpness": lambda: [callbacks.SAMCallback(0.05)],
    "validations between steps": lambda: [callbacks.ValidateCallback(every=4)],
}


def learner(*cbs: Any) -> Learner:
    """Return one whose model has a layer of one row, so not a shard for each process; the last batch is one sample."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 17), nn.Tanh(), nn.Linear(17, 1), nn.Linear(1, 2))
    x = torch.randn(77, 10)
    y = (x[:, 0] > 0).long()
    dls = {
        "train": DataLoader(TensorDataset(x[:49], y[:49]), 12, shuffle=True),
        "valid": DataLoader(TensorDataset(x[49:], y[49:]), 7),
    }
    return Learner(model, dls, cross_entropy, lr=0.05, opt_func=torch.optim.AdamW, cbs=cbs)


def sharded(*cbs: Any, **options: Any) -> Learner:
    return learner(ShardCallback(["0", "2"], timeout=30, **options), *cbs)


def whole(value: Any) -> torch.Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


def weights(learn: Learner) -> list[torch.Tensor]:
    return [whole(p) for p in learn.model.parameters()]


def results(learn: Learner) -> dict[str, Any]:
    preds, targets = learn.get_preds("valid")
    history = {name: values for name, values in learn.history.to_dict().items() if "/" in name}
    return {
        "numbers": [*weights(learn), preds, *(torch.tensor(values) for values in history.values())],
        "exactly": (targets.tolist(), learn.n_steps, learn.n_samples, learn.best and learn.best.epoch),
    }


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a["exactly"] == b["exactly"]
    return max(float((x - y).abs().max()) for x, y in zip(a["numbers"], b["numbers"], strict=True))


@pytest.fixture(autouse=True)
def _in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def train(names: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in names:
        learn = sharded(callbacks.MetricsCallback(accuracy=callbacks.accuracy), *CASES[name]())
        learn.fit(1)
        learn.fit(1)  # which finds the model in shards
        found[name] = results(learn)
    return found


@pytest.mark.parametrize(("world", "names"), [(2, list(CASES)), (4, ["accumulate and clip"])])
def test_it_is_the_training_of_one_process(world, names):
    one, several = train(names), launch(train, world, names)
    differences = {name: difference(one[name], several[name]) for name in names}
    assert max(differences.values()) < 1e-12, differences
    assert one[names[0]]["exactly"][1] > 0


def look() -> dict[str, Any]:
    learn = sharded()
    torch.manual_seed(learn.job.rank)
    nn.init.normal_(learn.model[0].weight)  # other weights in each process: the first's are those of all
    learn.fit(0)
    first = learn.job.from_first(lambda: None, at="here")
    local = [tuple(p.to_local().shape) for p in learn.model.parameters()]
    locals_ = learn.job.gather(local, at="the shards")
    learn.fit(1)
    state = [value for values in learn.opt.state.values() for key, value in values.items() if key != "step"]
    before = weights(learn)
    with learn.sandbox():
        learn.fit(1)
    undone = all(torch.equal(a, b) for a, b in zip(before, weights(learn), strict=True))
    suggestion = learn.lr_find(plot=False, n=5)
    return {
        "first": first,
        "shards": locals_,
        "state": {tuple(value.to_local().shape) for value in state},
        "undone": undone and all(torch.equal(a, b) for a, b in zip(before, weights(learn), strict=True)),
        "n_steps": len(suggestion.losses),
        "names": [name for name, _ in learn.model.named_parameters()],
    }


def test_each_process_holds_its_shard_and_a_sandbox_puts_it_back():
    seen = launch(look, 2)
    assert seen["shards"][0] == [(9, 10), (9,), (1, 17), (1,), (1, 1), (1,)]
    assert seen["shards"][1] == [(8, 10), (8,), (0, 17), (0,), (1, 1), (1,)]
    assert seen["state"] == set(seen["shards"][0])
    assert seen["undone"]
    assert seen["n_steps"] == 5
    assert seen["names"] == [name for name, _ in learner().model.named_parameters()]


def optimizer_of_before() -> dict[str, Any]:
    learn = learner(callbacks.DistributedCallback(timeout=30))
    learn.fit(1)
    learn.remove_cb(learn.cbs[0])
    learn.add_cb(ShardCallback(["0"], timeout=30, reshard_after_forward=False))
    learn.fit(1)
    return results(learn)


def test_what_the_optimizer_remembers_of_an_earlier_fit_is_put_in_shards():
    assert difference(optimizer_of_before(), launch(optimizer_of_before, 2)) < 1e-12


# -- control flow ---------------------------------------------------------------------------------------------------


class Act(Callback):
    """Raise an error, or be interrupted, at one place in the last process alone."""

    def __init__(self, place: str, error: Any) -> None:
        self.role, signal_ = place.split(" ")
        self.error = error
        setattr(self, signal_, self.act)

    def act(self, learn: Learner) -> None:
        is_there = learn.role == self.role and learn.i == 3 and learn.epoch == 1
        if is_there and learn.job.rank == learn.job.world - 1:
            if self.error is signal.SIGTERM:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise self.error("on purpose")


ENDS = [
    *((f"train {at}", CancelBatchException) for at in ("before_batch", "after_predict", "after_backward")),
    ("train after_batch", CancelBatchException),
    *((f"train {at}", CancelStepException) for at in ("before_batch", "after_loss", "after_backward")),
    ("train before_batch", CancelEpochException),
    ("train after_predict", CancelFitException),
    ("train before_batch", signal.SIGTERM),
    *((f"valid {at}", CancelBatchException) for at in ("before_batch", "after_predict", "after_batch")),
    *((f"valid {at}", CancelEpochException) for at in ("before_batch", "after_loss")),
    ("valid before_batch", signal.SIGTERM),
    ("train before_batch", KeyError),
    ("train after_predict", KeyError),
    ("valid before_batch", KeyError),
    ("valid after_loss", KeyError),
]


def ends(agree: Any) -> list[Any]:
    """Return how each of the processes has ended, for each of the places."""
    found = []
    for place, error in ENDS:
        learn = sharded(Act(place, error), callbacks.ClipGradientCallback(1.0), agree=agree)
        end = "done"
        try:
            learn.fit(2)
        except (LearnerError, KeyError, SystemExit) as what:
            end = type(what).__name__
        mine = end, learn.n_steps, learn.n_samples, str(learn.history), [w.tolist() for w in weights(learn)]
        every: list[Any] = [None] * learn.job.world
        dist.all_gather_object(every, mine)
        found.append(every)
    return found


def test_who_stops_stops_with_all_in_a_validation_as_well():
    for (place, error), (first, last) in zip(ENDS, launch(ends, 2, "step"), strict=True):
        wanted = {KeyError: ("OtherProcessError", "KeyError"), signal.SIGTERM: ("SystemExit",) * 2}
        assert (first[0], last[0]) == wanted.get(error, ("done", "done")), place
        assert first[1:] == last[1:], (place, error)


class CancelWithin(Callback):
    order = 10

    def around_predict(self, learn: Learner, action: Any) -> None:
        raise CancelBatchException


# -- what cannot be -------------------------------------------------------------------------------------------------


def refused(what: str) -> None:
    learn = sharded()
    if what == "a sandbox":
        with learn.sandbox():
            learn.fit(1)
    elif what == "statistics":
        learn.fit(1, cbs=callbacks.GradientStats())
    elif what == "a loss":
        learn.loss_f = LossWithParameter()
        learn.fit(1)
    elif what == "a layer":
        learn.cbs[0].layers = ["nothing"]
        learn.fit(1)
    elif what == "a new layer":
        learn.fit(0)
        learn.model.append(nn.Linear(2, 2))
        learn.opt = None
        learn.fit(0)
    elif what == "a cancel":
        learn.fit(1, cbs=CancelWithin())
    elif what == "a state":
        learn = learner()
        learn.fit(1)
        for values in learn.opt.state.values():
            values["row"] = torch.ones(3)
        learn.fit(1, cbs=ShardCallback(["0"], timeout=30))
    elif what == "both":
        learn.add_cb(callbacks.DistributedCallback(timeout=30))


class LossWithParameter(nn.CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a sandbox", r"puts a model in shards in its first fit, which a sandbox cannot undo; call `learn\.fit\(0\)`"),
        ("statistics", "nothing that needs whole weights or gradients beside ShardCallback, got GradientStats"),
        ("a loss", "must have all that is trained in `model`, got parameters of the loss"),
        ("a layer", r"`layers` must be names, .* got 'nothing'; there is 0 \(the model\), 1 0, 2 1"),
        ("a new layer", r"`model` must be in shards as a whole once it is, but '4\.weight', '4\.bias' is not"),
        ("a cancel", "a forward of weights in shards must not be cancelled, got CancelBatchException"),
        ("a state", r"must have the shapes of its parameters .*'row' of shape \(3,\) for a parameter of \(17, 10\)"),
        ("both", "must hold one callback that knows the processes of a job, got ShardCallback and DistributedCallback"),
    ],
)
def test_what_cannot_be_is_one_error(what, message):
    with pytest.raises((LearnerError, ValueError), match=message):
        launch(refused, 2, what)


def test_layers_are_looked_at_in_one_process_too():
    learn = learner(ShardCallback(["nothing"]))
    with pytest.raises(ValueError, match=r"`layers` must be names, .* got 'nothing'"):
        learn.fit(1)


def test_a_policy_that_one_process_has_no_use_for_is_told(capsys):
    ShardCallback(["0"], mp_policy=MixedPrecisionPolicy())
    assert capsys.readouterr().out == "ShardCallback: one process cuts nothing, and does without `mp_policy`.\n"


@pytest.mark.parametrize("name", ["mp_policy", "offload_policy", "mesh"])
def test_arguments_of_another_kind_are_refused(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a .* got 'bf16'"):
        ShardCallback(["0"], **{name: "bf16"})


def test_a_layer_that_was_named_later_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(LearnerError, match=r"as a whole once it is, but '0\.weight', '0\.bias', '0' is not"):
        require_all_sharded(model, {"0": model[0]})


def scaled() -> Any:
    torch.set_default_dtype(torch.float32)
    learn = sharded(callbacks.MixedPrecisionCallback("fp16", init_scale=2.0**127))
    learn.fit(2)
    return learn.job.gather((learn.n_steps, learn.n_skipped), at="the end")


def test_a_gradient_that_overflows_in_one_shard_skips_the_step_of_all():
    counts = launch(scaled, 2)
    assert counts == scaled() * 2
    assert counts[0][1] > 0


def half() -> Any:
    learn = sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    learn.fit(1)
    return results(learn)["numbers"], [p.dtype for p in learn.model.parameters()]


def test_a_policy_computes_in_half_precision_and_keeps_whole_weights():
    numbers, dtypes = launch(half, 2)
    learn = sharded()
    learn.fit(1)
    away = max(float((a - b).abs().max()) for a, b in zip(numbers, results(learn)["numbers"], strict=True))
    assert 1e-6 < away < 0.2
    assert set(dtypes) == {torch.float64}


# -- 512 processes --------------------------------------------------------------------------------------------------


def test_512_processes_hold_a_512th_each_and_rows_that_are_fewer_than_processes_leave_some_without():
    command = [sys.executable, "-m", "tests.callbacks.scale.shards_of_512", "2", "512"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [[int(word) for word in line.split()] for line in run.stdout.splitlines()]
    (_, _, first, total, largest, rows), (_, _, last, _, _, no_rows) = lines
    width, hidden, words = 4096, 11008, 32000
    block = 4 * width**2 + 3 * width * hidden + 2 * width
    assert total == 2 * block + 2 * words * width + width
    assert largest == block

    def of_first(rows):
        return -(-rows // 512)

    attention, norms = 4 * of_first(width) * width, 2 * of_first(width)
    per_block = attention + 2 * of_first(hidden) * width + of_first(width) * hidden + norms
    assert first == 2 * per_block + 2 * of_first(words) * width + of_first(width)
    assert first * 512 < 1.03 * total
    assert last < first
    assert (rows, no_rows) == (2, 0)
