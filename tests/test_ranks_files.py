"""What several processes write is what one writes, once, and any number of processes goes on with it."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    CSVLoggerCallback,
    DistributedCallback,
    MetricsCallback,
    ProgressCallback,
    RecoverCallback,
    RunCallback,
    accuracy,
)
from learner import Callback, Learner
from learner.checkpoint.losses import LossFile
from learner.records.run import Run
from learner.replay import seed, without
from tests.ranks import TIMEOUT, error_of, in_each, loaders, network, weights

# -- checkpoints -------------------------------------------------------------------------------------------------------

ANY = "plain", "in a window"  # with no noise but that of samples: the same for any number of processes
# The same, to the bit, for as many; where each is stopped. Four add up in the order in which they find gradients to be
# ready, anew after each checkpoint, so that theirs has to be one that is written without a stop, too.
OWN = {(2, "dropout"): 13, (2, "objects"): 13, (4, "dropout"): 13}
MOVES = [(1, 2), (2, 1), (2, 4), (4, 2)]
BEFORE = "without the callback"  # what one process writes that knows nothing of others


class StopAt(Callback):
    """Send one process a SIGTERM in a batch, counted over the whole fit."""

    def __init__(self, n, rank=0):
        self.n, self.rank = n, rank

    def after_batch(self, learn):
        if learn.training and learn.n_samples // 12 == self.n and learn.job.rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


def make(kind, folder, stop_at=None, rank=0):
    """Return a learner with a checkpoint every fourth batch."""
    distributed = [] if kind == BEFORE else [DistributedCallback(timeout=TIMEOUT)]
    metrics = [torchmetrics.classification.MulticlassF1Score(2)] if kind == "objects" else []
    return Learner(
        network(0.2 if kind == "dropout" else 0.0),
        loaders(),
        cross_entropy,
        0.3,
        lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        cbs=[
            *distributed,
            CheckpointCallback(folder, every=4),
            MetricsCallback(*metrics, accuracy=accuracy),
            AccumulateCallback(5 if kind == "in a window" else 1),
            StopAt(stop_at, rank),
        ],
    )


def train(kind, folder, stop_at=None, rank=0):
    """Train three epochs of nine batches; go on with what is there."""
    learn = make(kind, folder, stop_at, rank)
    error = error_of(lambda: learn.fit(3, resume=True))
    return {
        "error": error,
        "weights": weights(learn),
        "history": learn.history.to_dict(),
        "counts": (learn.n_steps, learn.n_samples),
        "files": sorted(os.listdir(folder)),
    }


def train_some(home, jobs):
    """Train for each of some jobs: a name, a kind, and where to stop."""
    return {name: train(kind, Path(home) / name, *stop) for name, kind, *stop in jobs}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(home):
    """Trainings that were left alone, that were stopped, and that went on from there with another number."""
    begun, gone_on = {}, {}
    for world in (1, 2, 4):
        jobs = [(f"{kind} {world} to {to}", kind, 13, world - 1) for a, to in MOVES if a == world for kind in ANY]
        if world == 1:
            jobs += [(f"{kind} whole", kind) for kind in ANY]
            jobs += [(f"{BEFORE} 1 to 2", BEFORE, 13)]
        if world == 2:
            jobs += [(f"{BEFORE} 2 to 1", "plain", 13), ("plain 2 whole", "plain")]
        for kind, stop_at in ((kind, stop_at) for (n, kind), stop_at in OWN.items() if n == world):
            jobs += [(f"{kind} {world} whole", kind), (f"{kind} {world} to {world}", kind, stop_at, 1)]
        begun[world] = in_each(world, train_some, home, jobs)
    for world in (1, 2, 4):
        jobs = [(f"{kind} {a} to {to}", kind) for a, to in MOVES if to == world for kind in ANY]
        jobs += [(f"{kind} {world} to {world}", kind) for n, kind in OWN if n == world]
        if world < 4:
            jobs += [(f"{BEFORE} {3 - world} to {world}", BEFORE if world == 1 else "plain")]
        gone_on[world] = in_each(world, train_some, home, jobs)
    return begun, gone_on


@pytest.mark.parametrize(
    ("a", "b", "kind"), [*((*move, kind) for move in MOVES for kind in ANY), (1, 2, BEFORE), (2, 1, BEFORE)]
)
def test_any_number_goes_on_with_what_any_number_has_written(runs, kind, a, b):
    begun, gone_on = runs
    whole = begun[1][0][f"{'plain' if kind == BEFORE else kind} whole"]
    for each in gone_on[b]:
        run = each[f"{kind} {a} to {b}"]
        assert run["error"] is None
        assert (run["weights"] - whole["weights"]).abs().max() <= 1e-12
        assert run["counts"] == whole["counts"]
        for name, values in whole["history"].items():
            assert run["history"][name] == pytest.approx(values, rel=0, abs=1e-7), name


@pytest.mark.parametrize(("world", "kind"), OWN)
def test_as_many_go_on_bit_for_bit(runs, world, kind):
    begun, gone_on = runs
    for rank in range(world):
        whole, run = begun[world][rank][f"{kind} {world} whole"], gone_on[world][rank][f"{kind} {world} to {world}"]
        assert torch.equal(run["weights"], whole["weights"])
        assert run["history"] == whole["history"]
        assert run["counts"] == whole["counts"]


def test_the_losses_on_record_are_those_of_whole_batches(runs, home):
    for kind in ANY:
        whole = LossFile(home / f"{kind} whole").read()
        assert len(whole) == 27
        for a, b in MOVES:
            assert abs(LossFile(home / f"{kind} {a} to {b}").read() - whole).max() <= 1e-12


def test_what_two_processes_have_trained_is_gone_back_into_on_one(runs, home):
    """A loss that differs by more than rounding is told; where each process drew noise of its own, it is said so."""
    learn, found = make("plain", home / "plain 2 whole"), {}
    for kind, folder in (("two", home / "plain 2 whole"), ("one", home / "plain whole")):
        with learn.rewind(folder, step=25) as then:
            found[kind] = weights(learn), then.ids.tolist(), then.run()
    assert (found["two"][0] - found["one"][0]).abs().max() <= 1e-12
    assert found["two"][1] == found["one"][1]
    assert abs(found["two"][2] - LossFile(home / "plain whole").read()[25]) <= 1e-12
    with (
        pytest.warns(
            RuntimeWarning, match="Another number of processes has trained: this one has the same to rounding"
        ),
        make("dropout", home / "dropout 2 whole").rewind(home / "dropout 2 whole", step=26),
    ):
        pass


def go_back(home):
    """Go back to a batch of a training by as many processes, and on to its end; then live a part of it twice."""
    folder = home / "dropout 2 whole"
    learn = make("dropout", folder)
    with learn.rewind(folder, step=21) as then:
        n_ids = len(then.ids)
        then.advance(6)
        end = weights(learn)
    futures = learn.branch(folder, 21, 3, {"same": lambda learn: None, "seed": seed(1)})
    refused = error_of(lambda: learn.branch(folder, 21, 3, without(0)))
    return end, n_ids, futures.difference(), refused


def test_as_many_processes_go_back_bit_for_bit(runs, home):
    """A loss that differs from that on record would be a warning, and so an error of this test."""
    found = in_each(2, go_back, home)
    for rank, (end, n_ids, difference, refused) in enumerate(found):
        assert torch.equal(end, runs[0][2][rank]["dropout 2 whole"]["weights"])
        assert n_ids == 6
        assert not any(difference["same"].values())
        assert all(difference["seed"].values())
        assert refused.startswith("LearnerError: a change of samples must have the whole batch")
    assert found[0][2] == found[1][2]


def recover(folder):
    """Train on a batch with wrong labels, all of them in the share of the last of two processes."""
    torch.manual_seed(0)
    x = torch.randn(120, 2, dtype=torch.float64)
    y = x.sum(1, keepdim=True)
    y[102:104] = 1000.0
    learn = Learner(
        nn.Linear(2, 1).double(),
        {"train": DataLoader(TensorDataset(x, y), 4)},
        mse_loss,
        cbs=[DistributedCallback(timeout=TIMEOUT), CheckpointCallback(folder, every=7), found := RecoverCallback()],
    )
    learn.fit(1)
    return weights(learn), learn.n_steps, [(recovery.n_batches, recovery.what) for recovery in found.recoveries]


def test_all_go_back_when_the_loss_jumps_in_the_share_of_one(tmp_path):
    whole, n_steps, recoveries = in_each(1, recover, tmp_path / "1")[0]
    assert (n_steps, [n for n, _ in recoveries]) == (29, [25])
    for its_weights, its_steps, its_recoveries in in_each(2, recover, tmp_path / "2"):
        assert (its_weights - whole).abs().max() <= 1e-12
        assert (its_steps, its_recoveries) == (n_steps, recoveries)


def test_all_stop_for_a_signal_to_one_with_one_checkpoint(runs):
    begun, _ = runs
    for world, each in begun.items():
        stopped = [name for name in each[0] if "whole" not in name]
        assert stopped
        for name in stopped:
            for its in each:
                assert its[name]["error"] == "SystemExit: 143"
                assert its[name]["counts"] == each[0][name]["counts"]
                assert its[name]["counts"][1] == (173 if world == 1 else 185)  # this batch, or the next
            # One for each fourth batch, of which three are kept, and the one for the signal.
            assert len([file for file in each[0][name]["files"] if file.endswith(".pt")]) == 3, world


# -- logs, runs, the console -------------------------------------------------------------------------------------------


def write_all(home):
    """Train with all that writes; return what went to the standard output."""
    distributed = DistributedCallback(timeout=TIMEOUT)
    home = Path(home)
    with open(home / f"stdout-{distributed.rank}", "w") as sys.stdout:
        run = Run.create(home / "run")
        cbs = [
            distributed,
            MetricsCallback(accuracy=accuracy),
            BestModelCallback(),
            ProgressCallback(),
            CSVLoggerCallback(home / "log.csv"),
            CheckpointCallback(home / "checkpoints"),
            RunCallback(run),
            CollectCallback(ClassificationMetricsCollector(), run=run),
        ]
        learn = Learner(network(), loaders(), cross_entropy, 0.3, cbs=cbs)
        learn.fit(2)
        learn.save(home / "learner.pt")
        learn.export(home / "weights.pt")
    sys.stdout = sys.__stdout__
    return distributed.rank


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    homes = {}
    for world in (1, 2):
        homes[world] = tmp_path_factory.mktemp(f"of-{world}")
        in_each(world, write_all, homes[world])
    return homes


def without_times(text):
    """Leave out what a clock says, and the name of the folder."""
    return re.sub(r" +[\d.:]+ ?m?s\b|of-\d\d", " -", text)


def test_the_console_shows_what_it_shows_of_one(written):
    one, first = ((written[world] / "stdout-0").read_text() for world in (1, 2))
    assert "accuracy" in one
    assert without_times(first) == without_times(one)
    assert (written[2] / "stdout-1").read_text() == ""


def test_each_file_is_there_once(written):
    names = {
        world: sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
        for world, home in written.items()
    }
    names[2].remove("stdout-1")
    assert names[2] == names[1]


def test_the_log_has_a_row_for_each_epoch(written):
    one, several = ((written[world] / "log.csv").read_text().splitlines() for world in (1, 2))
    assert len(several) == len(one) == 3
    assert several[0] == one[0]


def test_the_run_has_what_that_of_one_has(written):
    one, several = (Run.open(written[world] / "run") for world in (1, 2))
    rows = {world: run.samples.numpy("example_id").tolist() for world, run in ((1, one), (2, several))}
    assert rows[2] == rows[1]
    assert several.info["status"] == one.info["status"]


def test_what_is_saved_is_the_model_of_one(written):
    weights = [torch.load(written[world] / "weights.pt", weights_only=True) for world in (1, 2)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] - weights[1][name]).abs().max() <= 1e-12 for name in weights[0])
