"""Every sample while a model trains: who it is, when, what for, and that nothing recorded is lost."""

import copy
import gc
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    DeviceCallback,
    EarlyStoppingCallback,
    FunctionalMetricsCollector,
    LambdaCallback,
    MetricsCallback,
    ProgressCallback,
    RunCallback,
    ValidateCallback,
    accuracy,
    collect_metrics,
)
from callbacks.samples import collection
from learner import (
    BatchLimit,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
    Loaders,
    Predictor,
)
from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.interrogate import capture
from learner.records import Run, Table, dynamics
from tests.resuming import resumed, stopped, stopped_and_resumed, uninterrupted

ROOT = Path(__file__).parents[3]
N = 22


def number(batch, output):
    """Tell the number of a sample by its first feature."""
    return {"number": batch[0][:, 0].round()}


def logits(batch, output):
    return {"logits": output.forward}


class Points(Dataset):
    """Points in two dimensions, of which the first is the number of the sample."""

    def __init__(self, n=N):
        self.x = torch.stack([torch.arange(float(n)), torch.linspace(-1, 1, n)], 1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(i % 3)


def make(cbs=None, train=None, valid=None, model=None, **options):
    torch.manual_seed(0)
    dls = {"train": train or DataLoader(Points(), batch_size=4, shuffle=True), "valid": valid or DataLoader(Points(9))}
    model = model or nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.2), nn.ReLU(), nn.Linear(4, 3))
    return Learner(model, dls, nn.functional.cross_entropy, lr=0.01, cbs=cbs, **options)


def fit(learn, n_epochs):
    """Train with random numbers that are the same each time."""
    torch.manual_seed(1)
    learn.fit(n_epochs)
    return learn


def weights(learn):
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


class EndIn(Callback):
    """Raise an error in the second batch of an epoch."""

    order = 100

    def __init__(self, epoch, error, name="train"):
        self.epoch, self.error, self.name = epoch, error, name

    def after_batch(self, learn):
        if (learn.epoch, learn.dl_name, learn.i) == (self.epoch, self.name, 1):
            raise self.error("on purpose")


# -- which samples -----------------------------------------------------------------------------------------------------

LOADERS = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "without the last": {"shuffle": True, "drop_last": True},
    "weighted": {"sampler": WeightedRandomSampler(torch.linspace(0, 1, N), 2 * N)},
}
WORKERS = {
    "no workers": {},
    "2 workers": {"num_workers": 2},
    "2 that persist": {"num_workers": 2, "persistent_workers": True},
}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("loader", LOADERS)
def test_ids_are_the_numbers_of_the_samples_also_after_a_pass_was_left_early(loader, workers):
    train = DataLoader(Points(), batch_size=4, **LOADERS[loader], **WORKERS[workers])
    collect = CollectCallback(number)
    make([collect, EndIn(1, CancelEpochException)], train).fit(3)
    samples = collect.samples
    assert (samples.numpy("example_id") == samples.numpy("number")).all()
    of_train = samples.where(split="train")
    whole = {"in order": 22, "shuffled": 22, "without the last": 20, "weighted": 44}[loader]
    assert [len(of_train.where(epoch=epoch)) for epoch in range(3)] == [whole, 8, whole]
    assert len(samples.where(split="valid")) == 3 * 9
    if loader in ("in order", "shuffled"):
        assert sorted(of_train.where(epoch=2).numpy("example_id")) == list(range(N))


def test_a_validation_of_the_same_loader_in_the_middle_of_its_pass_changes_nothing():
    train = DataLoader(Points(), batch_size=4, shuffle=True)
    collect = CollectCallback([number, logits], on=["train"])
    collect.collectors[1].layers = ("0",)

    class Nested(Callback):
        def after_predict(self, learn):
            if learn.training:
                learn.validate("train")

        after_loss = after_batch = after_predict

    fit(make([collect, Nested()], train), 2)
    alone = CollectCallback([number, logits], on=["train"])
    fit(make(alone), 2)
    assert (collect.samples.numpy("example_id") == collect.samples.numpy("number")).all()
    for column in ("example_id", "epoch", "step", "logits"):
        assert (collect.samples.numpy(column) == alone.samples.numpy(column)).all()


def test_a_loader_that_another_callback_puts_in_place_is_the_one_that_counts():
    other = DataLoader(Points(17), batch_size=5, shuffle=True)

    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.training:
                learn.dl = other

    collect = CollectCallback(number, on=["train"])
    make([collect, Replace()]).fit(1)
    assert (collect.samples.numpy("example_id") == collect.samples.numpy("number")).all()
    assert len(collect.samples) == 17
    assert collect.samples.fingerprint == Table(other.dataset).fingerprint


class Stream(IterableDataset):
    def __init__(self, **names):
        self.names = names

    def __iter__(self):
        points = Points()
        for i in reversed(range(N)):
            x, y = points[i]
            yield {"x": x, "label": y, **{name: f(i) for name, f in self.names.items()}}

    def __len__(self):
        return N


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (DataLoader(Stream(), batch_size=4), "its dataset is a stream, whose samples have no numbers"),
        ([(torch.zeros(2, 2), torch.tensor([0, 1]))], "it is a list, not a DataLoader"),
        (DataLoader(Points(), batch_size=4, num_workers=2, in_order=False), r"are done \(in_order=False\)"),
        (BatchLimit(DataLoader(Points(), batch_size=4), 2), "batches that were fetched before"),
    ],
)
def test_it_is_refused_where_ids_cannot_be_right(train, reason):
    model = ByName() if isinstance(getattr(train, "dataset", None), Stream) else nn.Linear(2, 3)
    with pytest.raises(LearnerError, match=f"{reason}; give each sample an `example_id` in its mapping") as error:
        make(CollectCallback(number), train, model=model).fit(1)
    assert "CollectCallback.after_batch" in str(error.value.__notes__)


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_batches_may_say_it_themselves(kind):
    stream = DataLoader(Stream(example_id=lambda i: 1000 + i), batch_size=4)
    train = stream if kind == "stream" else list(stream)
    collect = CollectCallback(lambda batch, output: {"number": batch["x"][:, 0]}, on=["train"])
    make(collect, train, model=ByName()).fit(2)
    assert len(collect.samples) == 2 * N
    assert (collect.samples.numpy("example_id") == 1000 + collect.samples.numpy("number")).all()


def test_samples_know_their_tables_and_can_be_shown():
    table = Table.from_dict({"x": torch.rand(8, 2), "y": [0, 1] * 4}, "colours").map(lambda row: (row["x"], row["y"]))
    for source in ("step", "pass"):
        collect = CollectCallback(ClassificationMetricsCollector(), source, on=["train"])
        make(collect, DataLoader(table, batch_size=4, shuffle=True)).fit(2)
        assert collect.samples.table is table
        assert collect.samples.fingerprint == table.fingerprint
        assert "sample" in collect.samples.top("loss", 2).show().columns


# -- source="step" -----------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = 0
        self.linear = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, x):
        self.n += 1
        return self.linear(x)


def test_a_step_makes_no_forward_more_and_changes_no_weight():
    collector = ClassificationMetricsCollector()
    collector.layers = ("linear.0", "linear.1")
    learners = [make(cbs, model=Counting(), valid=DataLoader(Points(9), 4)) for cbs in ([], CollectCallback(collector))]
    for learn in learners:
        fit(learn, 3)
    alone, watched = learners
    assert watched.model.n == alone.model.n == 3 * (6 + 3)
    assert torch.equal(weights(alone), weights(watched))
    assert all(torch.equal(a, b) for a, b in zip(alone.model.buffers(), watched.model.buffers(), strict=True))
    assert alone.history.to_dict() == watched.history.to_dict()


def test_columns_equal_a_loop_by_hand_with_the_weights_of_each_batch():
    """Also the ragged last batch, and the step, in which two batches are one."""
    learn = make(train=DataLoader(Points(), batch_size=4), model=nn.Linear(2, 3))
    model, points = copy.deepcopy(learn.model), Points()
    y = torch.tensor([points[i][1] for i in range(N)])
    collect = CollectCallback(ClassificationMetricsCollector(), on=["train"])
    learn.add_cb([collect, AccumulateCallback(2)])
    learn.fit(2)
    opt, losses, steps, n_steps = torch.optim.SGD(model.parameters(), lr=0.01), [], [], 0
    for _ in range(2):
        for i in range(0, N, 8):
            window = []
            for x, target in zip(points.x[i : i + 8].split(4), y[i : i + 8].split(4), strict=True):
                loss = nn.functional.cross_entropy(model(x), target, reduction="none")
                window += loss.tolist()
                loss.sum().backward()
            for p in model.parameters():
                p.grad /= len(window)
            opt.step()
            opt.zero_grad()
            losses += window
            steps += [n_steps] * len(window)
            n_steps += 1
    samples = collect.samples
    assert samples.numpy("loss") == pytest.approx(losses, rel=1e-5)  # sums of float32 in another order
    assert samples.numpy("step").tolist() == steps
    assert samples.numpy("epoch").tolist() == [0] * N + [1] * N
    assert samples.aggregates["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


class Augmented(Dataset):
    """Points moved at random, as they were told to be."""

    def __init__(self):
        self.given = {}

    def __len__(self):
        return N

    def __getitem__(self, i):
        x = torch.randn(2)
        self.given.setdefault(i, []).append(x[0].item())
        return x, i % 3


def test_a_step_sees_samples_as_they_were_augmented():
    data = Augmented()
    collect = CollectCallback(lambda batch, output: {"x": batch[0][:, 0]}, on=["train"])
    make(collect, DataLoader(data, batch_size=4, shuffle=True)).fit(3)
    x = collect.samples.pivot("x").values
    assert [x[i].tolist() for i in range(N)] == [data.given[i] for i in range(N)]


def test_a_batch_that_was_cut_short_is_left_out():
    class Cut(Callback):
        def before_batch(self, learn):
            if learn.training and learn.i == 1:
                raise CancelBatchException

    collect = CollectCallback(number, on=["train"])
    make([collect, Cut()], DataLoader(Points(), batch_size=4)).fit(1)
    assert collect.samples.numpy("example_id").tolist() == [*range(4), *range(8, N)]


def test_a_batch_that_never_met_the_model_is_left_out():
    class Skip(Callback):
        def before_batch(self, learn):
            if learn.training and learn.i == 1:
                raise CancelStepException  # which goes on to `after_batch`

    collect = CollectCallback(number, on=["train"])
    make([collect, Skip()], DataLoader(Points(), batch_size=4)).fit(1)
    assert collect.samples.numpy("example_id").tolist() == [*range(4), *range(8, N)]


@pytest.mark.parametrize("source", ["step", "pass"])
def test_what_collectors_compute_has_no_graph(source):
    def scaled(batch, output):
        return {"scaled": output.forward @ torch.ones(3, requires_grad=True)}

    collect = CollectCallback(scaled, source)
    make(collect).fit(1)
    assert len(collect.samples) > 0


@pytest.mark.parametrize("source", ["step", "pass"])
def test_the_target_is_what_the_learner_took_for_it(source):
    x, goal = torch.rand(10, 2), torch.arange(10) % 3
    dls = Loaders.from_arrays(train={"goal": goal, "x": x, "y": goal * 0}, batch_size=4)
    model = ByName()
    collect = CollectCallback(ClassificationMetricsCollector(), source, at=0)
    predictor = Predictor(model, target_key="goal")
    Learner(model, dls, nn.functional.cross_entropy, lr=0.01, cbs=collect, predictor=predictor).fit(1)
    assert (collect.samples.numpy("label") == goal.numpy()[collect.samples.numpy("example_id")]).all()


def test_steps_are_of_training_alone():
    collect = CollectCallback(number)
    make(collect).fit(1)
    assert "step" in collect.samples.where(split="train").columns
    assert "step" not in collect.samples.where(split="valid").columns


# -- source="pass" -----------------------------------------------------------------------------------------------------


class Watch(Callback):
    """Note what passes there are, and in which mode."""

    def __init__(self):
        self.heard = []

    def before_epoch(self, learn):
        modes = {module.training for module in learn.model.modules()}
        self.heard.append((learn.epoch, learn.dl_name, learn.is_side_pass, modes, torch.is_grad_enabled()))


def test_a_pass_is_in_order_in_eval_mode_without_gradients_and_with_the_samples_for_collection():
    points = Points()
    table = Table([points[i] for i in range(N)])
    table.map(lambda row: (row[0] + torch.rand(2), row[1])).map_collect_metrics(lambda row: row)
    train = DataLoader(table, batch_size=4, shuffle=True, drop_last=True)
    collect, watch = CollectCallback([number, logits], "pass", at="end"), Watch()
    learn = make([watch, collect], train)
    learn.fit(1)
    assert watch.heard[2:] == [(0, name, True, {False}, False) for name in ("train", "valid")]
    of_train = collect.samples.where(split="train")
    assert of_train.numpy("example_id").tolist() == of_train.numpy("number").tolist() == list(range(N))
    learn.model.eval()
    with torch.no_grad():
        expected = learn.model(points.x).numpy()
    np.testing.assert_allclose(of_train.numpy("logits"), expected, rtol=1e-6, atol=1e-6)  # batches of 4 and of 22
    assert "step" not in of_train.columns


def test_passes_leave_training_its_random_numbers_modes_metrics_and_history(capsys):
    def train(*cbs):
        learn = make(
            [MetricsCallback(accuracy), ProgressCallback(), ValidateCallback(4), *cbs], valid=DataLoader(Points(9), 4)
        )
        learn.model[1].eval()
        fit(learn, 3)
        return learn, capsys.readouterr().out

    alone, table = train()
    collect = CollectCallback(ClassificationMetricsCollector(), "pass")
    watched, table_too = train(collect)
    assert torch.equal(weights(alone), weights(watched))
    assert alone.history.to_dict() == watched.history.to_dict()
    assert alone.metrics == watched.metrics
    assert [m.training for m in watched.model.modules()] == [m.training for m in alone.model.modules()]
    assert [line.split()[:5] for line in table.splitlines()] == [line.split()[:5] for line in table_too.splitlines()]
    assert set(collect.samples.numpy("epoch")) == {0, 1, 2, 3}


def test_a_pass_weighs_means_where_the_table_has_weights(tmp_path):
    data = {"x": torch.rand(6, 2), "y": [0, 1, 2] * 2, "weight": [0.0, 1, 2, 3, 4, 5]}
    table = Table.from_dict(data).map(lambda row: (row["x"], row["y"]))
    collect = CollectCallback(
        ClassificationMetricsCollector(), "pass", on=["train"], at="before", run=Run.create(tmp_path / "a")
    )
    make(collect, DataLoader(table, batch_size=4)).fit(1)
    losses = collect.samples.numpy("loss")
    mean = collect.run.scalars()["pass/train/loss"].values[0]
    assert mean == pytest.approx(np.average(losses, weights=data["weight"]), rel=1e-6)
    assert mean != pytest.approx(losses.mean(), rel=1e-3)


def test_a_step_does_not_weigh_them_which_the_sampler_may_have_done(tmp_path):
    data = {"x": torch.rand(6, 2), "y": [0, 1, 2] * 2, "weight": [0.0, 1, 2, 3, 4, 5]}
    table = Table.from_dict(data).map(lambda row: (row["x"], row["y"]))
    collect = CollectCallback(ClassificationMetricsCollector(), on=["train"], run=Run.create(tmp_path / "a"))
    make(collect, DataLoader(table, batch_size=4)).fit(1)
    mean = collect.run.scalars()["train/margin"].values[0]
    assert mean == pytest.approx(collect.samples.numpy("margin").mean(dtype=float), rel=1e-6)


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "steps", "passes"),
    [
        (None, [0, 1, 2, 3], [0, 1, 2, 3, 4]),
        (2, [2], [2]),
        ([0, 3], [0, 3], [0, 3]),
        (slice(1, None, 2), [1, 3], [1, 3]),
        ([slice(0, 1), slice(3, None)], [0, 3], [0, 3, 4]),
        ("before", None, [0]),
        ("end", None, [4]),
        (["before", 2, "end"], None, [0, 2, 4]),
        (["end", 4], None, [4]),
    ],
)
def test_at_says_which_epochs(at, steps, passes):
    if steps is not None:
        collect = CollectCallback(number, on=["train"], at=at)
        make(collect).fit(4)
        assert sorted(set(collect.samples.numpy("epoch"))) == steps
        assert len(collect.samples) == N * len(steps)
    collect = CollectCallback(number, "pass", on=["train"], at=at)
    make(collect).fit(4)
    assert sorted(set(collect.samples.numpy("epoch"))) == passes
    assert len(collect.samples) == N * len(passes)


class Keep(Callback):
    """Keep the weights at the beginning of each epoch, and when the fit ends."""

    order = -1000

    def __init__(self):
        self.models = []

    def before_epoch(self, learn):
        if learn.dl_name == "train" and not learn.is_side_pass:
            self.models.append(copy.deepcopy(learn.model))

    def after_fit(self, learn):
        self.models.append(copy.deepcopy(learn.model))


def by_hand(model):
    model.eval()
    with torch.no_grad():
        return model(Points().x).numpy()


def test_an_epoch_is_the_number_of_those_that_were_done():
    collect, keep = CollectCallback(logits, "pass", on=["train"]), Keep()
    make([collect, keep]).fit(2)
    for epoch in range(3):
        found = collect.samples.where(epoch=epoch).numpy("logits")
        np.testing.assert_allclose(found, by_hand(keep.models[epoch]), rtol=1e-5, atol=1e-6)


class Score(Callback):
    """Give the validation scores of a list."""

    def __init__(self, values):
        self.values = values

    def after_epoch(self, learn):
        if learn.dl_name == "valid" and not learn.is_side_pass:
            learn.metrics["valid"]["score"] = self.values[learn.epoch]


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_best_has_the_weights_of_the_best_epoch_and_end_the_last_ones(restore, is_stopped):
    scores = [3.0, 1.0, 2.0, 5.0]
    keep, best = Keep(), BestModelCallback("score", mode="min", restore=restore)
    collect = CollectCallback(logits, "pass", on=["train"], at=["best", "end"])
    stop = [EarlyStoppingCallback("score", mode="min", patience=2)] if is_stopped else []
    learn = make([collect, best, Score(scores), keep, *stop])
    states = []
    learn.add_cb(LambdaCallback(after_epoch=lambda learn: states.append(copy.deepcopy(learn.model))))
    learn.fit(6 if is_stopped else 4)
    assert sorted(set(collect.samples.numpy("epoch"))) == [2, 4]
    for epoch in (2, 4):
        found = collect.samples.where(epoch=epoch).numpy("logits")
        np.testing.assert_allclose(found, by_hand(states[2 * epoch - 1]), rtol=1e-5, atol=1e-6)
    loaded = make().model  # the weights, loaded by hand
    best.put_back(learn)
    loaded.load_state_dict(learn.model.state_dict())
    np.testing.assert_allclose(collect.samples.where(epoch=2).numpy("logits"), by_hand(loaded), rtol=1e-5, atol=1e-6)


def test_weights_after_a_fit_are_the_last_ones_whatever_was_looked_at():
    cbs = [BestModelCallback("score", mode="min"), Score([1.0, 2.0, 3.0])]
    alone, watched = make(cbs), make([*cbs, CollectCallback(number, "pass", at="best")])
    for learn in (alone, watched):
        fit(learn, 3)
    assert torch.equal(weights(alone), weights(watched))


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_the_end_never_comes_after_an_error(error):
    collect = CollectCallback(number, "pass", on=["train"], at=["before", "end"])
    with pytest.raises(error, match="on purpose"):
        make([collect, EndIn(1, error)]).fit(3)
    assert set(collect.samples.numpy("epoch")) == {0}


def test_the_end_comes_once_also_if_the_fit_is_cancelled_after_it():
    class Cancel(Callback):
        order = 1000

        def after_fit(self, learn):
            raise CancelFitException

    collect, watch = CollectCallback(number, "pass", on=["train"], at="end"), Watch()
    make([collect, watch, Cancel()]).fit(2)
    assert sum(is_side_pass for _, _, is_side_pass, _, _ in watch.heard) == 1
    assert set(collect.samples.numpy("epoch")) == {2}


def test_a_fit_of_no_epochs_has_a_beginning_and_an_end_in_one():
    collect = CollectCallback(number, "pass", on=["train"], at=["before", "end"])
    make(collect).fit(0)
    assert collect.samples.numpy("epoch").tolist() == [0] * N


@pytest.mark.parametrize(
    ("source", "at", "message"),
    [
        ("step", 3, r"`at` must come in this fit, epochs 0 to 2, got \[3\]; it never does"),
        ("step", slice(5, None), r"epochs 0 to 2, got \[slice\(5, None, None\)\]; it never does"),
        ("pass", [4, 7], r"epochs 0 to 3, got \[4, 7\]; it never does"),
        ("pass", "best", r"`at='best'` must have a BestModelCallback"),
    ],
)
def test_a_moment_that_never_comes_is_said_before_training(source, at, message):
    learn = make(CollectCallback(number, source, at=at))
    with pytest.raises(ValueError, match=message):
        learn.fit(3)
    assert learn.n_steps == 0


def test_a_second_fit_counts_on_and_a_new_learner_starts_anew(tmp_path):
    collect = CollectCallback(logits, "pass", on=["train"], run=Run.create(tmp_path / "run"))
    learn = make(collect)
    learn.fit(2)
    learn.fit(1)
    assert sorted(set(collect.samples.numpy("epoch"))) == [0, 1, 2, 3]
    assert len(collect.samples) == 4 * N
    steps = CollectCallback(number, on=["train"])
    learn = make(steps)
    learn.fit(2)
    learn.fit(1)
    first = steps.samples
    assert sorted(set(first.numpy("epoch"))) == [0, 1, 2]
    make(steps).fit(1)
    assert (set(steps.samples.numpy("epoch")), len(first.numpy("number"))) == ({0}, 3 * N)


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["train", "valid"])
def test_all_rows_until_an_error_or_an_interrupt_are_there(error, place):
    collect = CollectCallback(number)
    with pytest.raises(error, match="on purpose"):
        make([collect, EndIn(2, error, place)], valid=DataLoader(Points(9), 4)).fit(5)
    counts = {
        (split, epoch): len(collect.samples.where(split=split, epoch=epoch))
        for split in ("train", "valid")
        for epoch in range(3)
    }
    broken = {("train", 2): 8} if place == "train" else {("train", 2): N, ("valid", 2): 8}
    assert counts == {("train", 0): N, ("valid", 0): 9, ("train", 1): N, ("valid", 1): 9, ("valid", 2): 0, **broken}
    assert (collect.samples.numpy("example_id") == collect.samples.numpy("number")).all()


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_rows_of_a_pass_that_broke_off_are_there(error, tmp_path):
    class Break(Callback):
        def after_batch(self, learn):
            if learn.is_side_pass and learn.epoch == 1 and learn.i == 1:
                raise error("on purpose")

    run = Run.create(tmp_path / "run")
    collect = CollectCallback(number, "pass", on=["train"], run=run)
    learn = make([collect, Break()])
    with pytest.raises(error, match="on purpose"):
        learn.fit(3)
    assert [len(collect.samples.where(epoch=epoch)) for epoch in range(3)] == [N, 4, 0]
    assert run.scalars()["pass/train/number"].x == [0]  # a mean of some is none
    assert not any(module._forward_hooks for module in learn.model.modules())
    learn.remove_cb(learn.cbs[1])
    learn.fit(1)
    assert set(collect.samples.numpy("epoch")) == {0, 1, 2}
    assert len(collect.samples) == 3 * N  # the same epoch again has taken the place of what was broken


def test_a_collector_that_fails_takes_nothing_with_it():
    def fail(batch, output):
        if 21 in batch[0][:, 0]:
            raise ArithmeticError("on purpose")
        return number(batch, output)

    collect = CollectCallback(fail, on=["train"])
    with pytest.raises(ArithmeticError, match="on purpose") as error:
        make(collect, DataLoader(Points(), batch_size=4)).fit(1)
    assert "CollectCallback.after_batch, epoch 0, loader 'train', batch 5" in error.value.__notes__[0]
    assert collect.samples.numpy("number").tolist() == list(range(20))


SCRIPT = """
import os, signal, sys
import torch
from callbacks import ClassificationMetricsCollector, CollectCallback, RunCallback
from learner import Learner, Loaders
from learner.records import Run

class Kill:
    order = 1000

    def after_batch(self, learn):
        if learn.epoch == 3 and learn.training and learn.i == 1:
            os.kill(os.getpid(), signal.SIGKILL)

x, y = torch.randn(40, 2), torch.randint(0, 3, (40,))
dls = Loaders.from_arrays(train=(x, y), valid=(x, y), batch_size=8)
run = Run.create(sys.argv[1])
cbs = [RunCallback(run), CollectCallback(ClassificationMetricsCollector()), Kill()]
Learner(torch.nn.Linear(2, 3), dls, torch.nn.functional.cross_entropy, cbs=cbs).fit(10)
"""


def test_a_run_that_is_killed_leaves_every_epoch_that_it_finished(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = Run.open(tmp_path / "run")
    for split in ("train", "valid"):
        samples = run.samples.where(split=split)
        assert sorted(set(samples.numpy("epoch"))) == [0, 1, 2]
        assert sorted(samples.numpy("example_id")) == sorted([*range(40)] * 3)
        assert run.scalars()[f"{split}/margin"].x == [0, 1, 2]


def test_an_epoch_that_is_collected_again_replaces_its_file_and_is_logged_once(tmp_path):
    with Run.create(tmp_path / "run") as run:
        make(CollectCallback(ClassificationMetricsCollector())).fit(3)
        for _ in range(2):
            going_on_after_the_first_epoch(CollectCallback(ClassificationMetricsCollector())).fit(2)
    assert len(run.samples) == 3 * (N + 9)
    assert sorted(set(run.samples.numpy("epoch"))) == [0, 1, 2]
    logged = run.scalars()["train/margin"].x
    assert logged[:3] == [0, 1, 2]
    assert logged.count(1) == logged.count(2) == 2  # the second time as measured anew, the third as it was


def going_on_after_the_first_epoch(cb):
    """Return a learner as it comes from a file that was written after one epoch."""
    learn = make(cb)
    learn.history.load_state_dict({"rows": [{"epoch": 0, "train/loss": 1.0}], "start": 0})
    return learn


def test_a_training_from_the_beginning_does_not_take_the_place_of_another(tmp_path):
    with Run.create(tmp_path / "run") as run:
        make(CollectCallback(number)).fit(2)
        learn = make(CollectCallback(number))
        message = r"`run` must have no samples of another training, got 4 files as 'step-train-0000'; make a new Run"
        with pytest.raises(ValueError, match=message):
            learn.fit(1)
        assert learn.n_steps == 0
        make(CollectCallback(number, name="again")).fit(1)
    assert len(run.samples) == 3 * (N + 9)


def test_records_of_a_training_that_ended_before_its_first_checkpoint_are_its_own(tmp_path, capsys):
    def learner(*cbs):
        return make([CheckpointCallback(tmp_path / "checkpoints"), CollectCallback(number), *cbs])

    with Run.create(tmp_path / "run") as run:
        with pytest.raises(KeyError):
            learner(EndIn(0, KeyError, "valid")).fit(1, resume=True)
        assert (run.path / "samples" / "step-train-0000.parquet").exists()
        learner().fit(1, resume=True)
    assert capsys.readouterr().out.count("begins anew") == 2
    assert len(run.samples) == N + 9


def test_what_is_measured_otherwise_when_it_comes_again_is_logged_again(tmp_path):
    with Run.create(tmp_path / "run") as run:
        for lr in (0.01, 0.1):
            going_on_after_the_first_epoch(CollectCallback(ClassificationMetricsCollector())).fit(1, lr=lr)
    assert run.scalars()["train/margin"].x == [1, 1]


def test_two_of_them_have_two_names(tmp_path):
    run = Run.create(tmp_path / "run")
    two = [CollectCallback(number, run=run), CollectCallback(number, run=run)]
    message = "`name` must be another for each CollectCallback of a learner, got 'step' twice"
    with pytest.raises(ValueError, match=message):
        make(two).fit(1)
    three = [
        two[0],
        CollectCallback(number, name="clean/", run=run),
        CollectCallback(number, "pass", at="end", run=run),
    ]
    make(three).fit(1)
    names = sorted(path.stem for path in (run.path / "samples").glob("*train*"))
    assert names == ["clean_-train-0000", "pass-train-0001", "step-train-0000"]
    assert len(run.samples) == sum(len(cb.samples) for cb in three) == 3 * (N + 9)


def test_it_never_takes_the_place_of_what_collect_metrics_recorded(tmp_path):
    with Run.create(tmp_path / "run") as run:
        learn = make(CollectCallback(number))
        learn.fit(1)
        once = collect_metrics(Points(7), number, None, split="train")
        learn.fit(1)
        assert len(once) == len(once.numpy("number")) == 7
        assert len(run.samples) == 2 * (N + 9) + 7


@pytest.mark.parametrize("source", ["step", "pass"])
def test_a_sandbox_leaves_nothing(source, tmp_path):
    run = Run.create(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    collect = CollectCallback(number, source, at=[1], run=run)
    learn = make(collect)
    learn.lr_find(n=4, plot=False)
    with learn.sandbox():
        learn.fit(2)
        learn.validate()
    learn.summary()
    assert sorted(tmp_path.rglob("*")) == before
    assert len(collect.samples) == 0
    learn.fit(2)
    assert set(collect.samples.numpy("epoch")) == {1}


def test_a_sandbox_in_the_middle_of_a_pass_changes_nothing_either():
    collect = CollectCallback(number, on=["train"])
    make([collect, LambdaCallback(before_batch=lambda learn: learn.training and learn.summary())]).fit(1)
    assert sorted(collect.samples.numpy("example_id")) == list(range(N))
    assert (collect.samples.numpy("example_id") == collect.samples.numpy("number")).all()


def test_without_a_run_the_files_live_as_long_as_the_samples():
    collect = CollectCallback(number)
    make(collect).fit(1)
    samples, folder = collect.samples.where(split="train"), collect._files._folder.path
    del collect
    gc.collect()
    assert len(samples.numpy("number")) == N
    del samples
    gc.collect()
    assert not folder.exists()


def test_it_writes_to_the_run_of_a_run_callback_and_logs_means(tmp_path):
    run = Run.create(tmp_path / "run")
    collect = CollectCallback(ClassificationMetricsCollector(classes=["a", "b", "c"]))
    learn = make([collect, RunCallback(run)], valid=DataLoader(Points(9), 4))
    learn.fit(2)
    assert len(run.samples) == 2 * (N + 9)
    assert run.samples.classes("label") == ("a", "b", "c")
    assert len(run.info["tables"]) == 2
    for split in ("train", "valid"):
        logged = run.scalars()[f"{split}/margin"]
        by_hand = [
            collect.samples.where(split=split, epoch=epoch).numpy("margin").mean(dtype=float) for epoch in range(2)
        ]
        assert (logged.axis, logged.x) == ("epoch", [0, 1])
        assert logged.values == pytest.approx(by_hand, rel=1e-6)
        # What the history has is logged once, by the RunCallback.
        assert run.scalars()[f"{split}/loss"].values == learn.history.to_dict()[f"{split}/loss"]
    assert "train/predicted" not in run.scalars()


# -- going on ----------------------------------------------------------------------------------------------------------


def mixed(batch, output):
    """Give a column of each kind."""
    first = batch[0][:, 0]
    return {
        "number": first.round(),
        "hidden": output.hidden_layers["0"],
        "half": output.forward.half(),
        "is_even": first % 2 == 0,
        "word": [f"sample {'x' * int(n)}" for n in first],
    }


def many_collectors():
    collector = FunctionalMetricsCollector(mixed)
    collector.layers = ("0",)
    return [ClassificationMetricsCollector(classes=["a", "b", "c"]), collector]


def recording(folder, cbs, *, with_run=True, workers=0, sampler=None, **options):
    """Return a learner with a `CollectCallback`, the first of its callbacks, that writes to the run of a folder."""
    run = None
    if with_run:
        run = Run.open(folder) if (folder / "run.json").exists() else Run.create(folder)
    collect = CollectCallback(many_collectors(), run=run, **options)
    order = {"shuffle": True} if sampler is None else {"sampler": sampler}
    train = DataLoader(Points(), batch_size=4, num_workers=workers, **order)
    return make([collect, *cbs], train, DataLoader(Points(9), batch_size=4))


def columns_of(samples):
    return {name: samples.numpy(name) for name in samples.columns}


def assert_same_columns(samples, others):
    assert_equal_columns(columns_of(samples), columns_of(others))


def assert_equal_columns(mine, theirs):
    assert list(mine) == list(theirs)
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name, strict=True)


class Records:
    """All that is on record of a learner: rows, columns, files, scalars, tables; read once, compared often."""

    def __init__(self, learn):
        run = learn.cbs[0].run
        self.of_run, self.of_callback = columns_of(run.samples), columns_of(learn.cbs[0].samples)
        self.scalars, self.tables = run.logged(), run.info["tables"]
        self.files = {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*.parquet*")}


def assert_same_records(learn, expected):
    found = Records(learn)
    assert_equal_columns(found.of_run, expected.of_run)
    assert_equal_columns(found.of_callback, expected.of_callback)
    assert found.scalars == expected.scalars
    assert found.tables == expected.tables
    assert found.files == expected.files


@pytest.mark.parametrize(
    ("n_waiting", "by_interrupt", "places"),
    [(7, False, range(27)), (7, True, (0, 5, 6, 7, 8, 14)), (8192, False, (3, 9, 22))],
)
def test_records_go_on_after_any_batch_as_if_there_had_been_no_break(
    tmp_path, monkeypatch, n_waiting, by_interrupt, places
):
    """Some rows of the pass are in its file by then, and some wait; or all wait."""
    monkeypatch.setattr(collection, "N_WAITING", n_waiting)
    whole = Records(uninterrupted(partial(recording, tmp_path / "run"), 3, tmp_path / "checkpoints"))
    for stop_at in places:
        make_one = partial(recording, tmp_path / f"run{stop_at}")
        learn = stopped_and_resumed(make_one, 3, stop_at, tmp_path / str(stop_at), by_interrupt=by_interrupt)
        assert_same_records(learn, whole)


def test_records_after_the_checkpoint_are_replaced_and_no_scalar_comes_twice(tmp_path):
    whole = Records(uninterrupted(partial(recording, tmp_path / "run"), 3, tmp_path / "checkpoints", every=4))
    for stop_at in range(4, 27, 2):  # there is a checkpoint
        make_one = partial(recording, tmp_path / f"run{stop_at}")
        learn = stopped_and_resumed(make_one, 3, stop_at, tmp_path / str(stop_at), every=4)
        assert_same_records(learn, whole)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("is_own", [False, True])
def test_ids_are_right_in_a_pass_that_goes_on(tmp_path, workers, is_own):
    """Where the loader skips what is done, and where it reads it again."""

    class Backwards(Sampler):
        def __iter__(self):
            return reversed(range(N))

        def __len__(self):
            return N

    def make_one(cbs):
        sampler = Backwards() if is_own else None
        return recording(tmp_path / "run", cbs, workers=workers, sampler=sampler, on=["train"])

    samples = stopped_and_resumed(make_one, 2, 12, tmp_path / "checkpoints").cbs[0].samples
    assert (samples.numpy("example_id") == samples.numpy("number")).all()
    assert [len(samples.where(epoch=epoch)) for epoch in range(2)] == [N, N]


class Stateful(DataLoader):
    """A loader that goes on from a state of its own."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_loader_that_could_not_tell_when_it_goes_on_is_refused_before_it_comes_to_that(tmp_path):
    loader = Stateful(Points(), batch_size=4)
    make(CollectCallback(number), loader).fit(1)
    with pytest.raises(LearnerError, match="a Stateful goes on from a state of its own"):
        make([CollectCallback(number), CheckpointCallback(tmp_path / "checkpoints")], loader).fit(1)
    make([CollectCallback(number, "pass"), CheckpointCallback(tmp_path / "others")], loader).fit(1)


def test_a_loader_that_is_put_in_place_of_the_rest_of_a_pass_is_refused(tmp_path):
    class Replace(Callback):
        def before_epoch(self, learn):
            if learn.training:
                learn.dl = DataLoader(Points(), batch_size=4)

    def make_one(cbs):
        return recording(tmp_path / "run", [*cbs, Replace()])

    with pytest.raises(LearnerError, match="it took the place of the rest of a pass"):
        stopped_and_resumed(make_one, 1, 3, tmp_path / "checkpoints")


@pytest.mark.parametrize("at", [None, ["before", 2, "end"], ["best", 1]])
@pytest.mark.parametrize("by_interrupt", [False, True])
def test_passes_are_made_once_in_a_fit_that_goes_on(tmp_path, at, by_interrupt):
    def make_one(folder, cbs):
        return recording(folder, [*cbs, BestModelCallback()], source="pass", at=at)

    whole = Records(uninterrupted(partial(make_one, tmp_path / "run"), 3, tmp_path / "checkpoints"))
    for stop_at in (8, 9, 13, 26):
        make_other = partial(make_one, tmp_path / f"run{stop_at}")
        learn = stopped_and_resumed(make_other, 3, stop_at, tmp_path / str(stop_at), by_interrupt=by_interrupt)
        assert_same_records(learn, whole)


def test_no_pass_is_made_again_in_the_middle_of_an_epoch(tmp_path):
    make_one = partial(recording, tmp_path / "run", source="pass")
    stopped(make_one, 2, 12, tmp_path / "checkpoints")
    watch = Watch()
    resumed(lambda cbs: make_one([*cbs, watch]), 2, tmp_path / "checkpoints")
    assert [(epoch, name) for epoch, name, is_side_pass, *_ in watch.heard if is_side_pass] == [
        (1, "train"),
        (1, "valid"),
    ]


@pytest.mark.parametrize("n_epochs", [2, 3])
def test_a_fit_that_is_over_has_its_end_once(tmp_path, n_epochs):
    """Whether all epochs are done or a callback has ended it; the best weights are back in the model by then."""

    def make_one(cbs):
        stop = LambdaCallback(before_epoch=lambda learn: cancel_fit(learn) if learn.epoch == 2 else None)
        return recording(
            tmp_path / "run",
            [*cbs, BestModelCallback("score", mode="min", restore=True), Score([1.0, 2.0, 3.0]), stop],
            source="pass",
        )

    def cancel_fit(learn):
        if not learn.is_side_pass:
            raise CancelFitException

    whole = uninterrupted(make_one, n_epochs, tmp_path / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    rows = columns_of(whole.cbs[0].samples)
    learn = resumed(make_one, n_epochs, tmp_path / "checkpoints")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")} == before
    assert {name: column.tolist() for name, column in columns_of(learn.cbs[0].samples).items()} == {
        name: column.tolist() for name, column in rows.items()
    }
    assert learn.cbs[0].run.logged() == whole.cbs[0].run.logged()


def test_samples_can_be_shown_of_passes_that_are_done(tmp_path):
    """In the last pass, over the other loader, a fit goes on: the table of the first one is known all the same."""
    learn = stopped_and_resumed(partial(recording, tmp_path / "run"), 1, 8, tmp_path / "checkpoints", by_interrupt=True)
    for samples in (learn.cbs[0].samples, learn.cbs[0].run.samples):
        assert "sample" in samples.where(split="train").top("loss", 2).show().columns


def test_records_of_a_run_callback_and_history_go_on_together(tmp_path):
    def make_one(folder, cbs):
        run = Run.open(folder) if folder.exists() else Run.create(folder)
        collect = CollectCallback(many_collectors())
        return make([collect, RunCallback(run), *cbs], valid=DataLoader(Points(9), batch_size=4))

    whole = uninterrupted(partial(make_one, tmp_path / "run"), 3, tmp_path / "checkpoints")
    for stop_at in (3, 8, 10, 17, 20):
        learn = stopped_and_resumed(partial(make_one, tmp_path / f"run{stop_at}"), 3, stop_at, tmp_path / str(stop_at))
        assert_same_columns(learn.cbs[0].samples, whole.cbs[0].samples)
        run, run_of_whole = learn.cbs[1].run, whole.cbs[1].run
        assert_same_columns(run.samples, run_of_whole.samples)
        assert run.scalars() == run_of_whole.scalars()


def test_without_a_run_it_says_once_what_is_gone(tmp_path):
    make_one = partial(recording, tmp_path, with_run=False)
    stopped(make_one, 3, 21, tmp_path / "checkpoints")
    with pytest.warns(
        RuntimeWarning, match="samples of 4 passes before the checkpoint are gone: a temp.* into a Run"
    ) as said:
        learn = resumed(make_one, 3, tmp_path / "checkpoints")
    assert len(said) == 1
    whole = uninterrupted(make_one, 3, tmp_path / "again")
    assert_same_columns(learn.cbs[0].samples, whole.cbs[0].samples.where(epoch=2))


def test_another_run_is_said_to_lack_what_is_in_the_first(tmp_path):
    stopped(partial(recording, tmp_path / "run"), 2, 12, tmp_path / "checkpoints")
    with pytest.warns(RuntimeWarning, match=r"samples of 2 passes .* are gone: not in Run\('other'"):
        learn = resumed(partial(recording, tmp_path / "other"), 2, tmp_path / "checkpoints")
    assert set(learn.cbs[0].samples.numpy("epoch")) == {1}


@pytest.mark.parametrize("with_run", [False, True])
def test_the_same_learner_goes_on_after_an_interrupt_and_has_all_samples(tmp_path, with_run):
    def make_one(folder):
        return partial(recording, folder, with_run=with_run)

    whole = uninterrupted(make_one(tmp_path / "run"), 3, tmp_path / "checkpoints")
    learn = stopped(make_one(tmp_path / "other"), 3, 12, tmp_path / "again", by_interrupt=True)
    assert len(learn.cbs[0].samples) == N + 9 + 16
    learn.cbs[-1].n = None
    learn.fit(3, resume=True)
    assert_same_columns(learn.cbs[0].samples, whole.cbs[0].samples)


def test_a_learner_that_is_loaded_finds_its_samples_again_when_it_trains_on(tmp_path):
    with Run.create(tmp_path / "run") as run:
        learn = make(CollectCallback(number))
        fit(learn, 2)
        learn.save(tmp_path / "learn.pt")
    other = make(CollectCallback(number))
    other.load(tmp_path / "learn.pt")
    with run:
        other.fit(1)
    assert len(other.cbs[0].samples) == len(run.samples) == 3 * (N + 9)


def test_no_path_in_a_checkpoint_is_followed(tmp_path):
    (tmp_path / "secret.parquet").write_bytes(b"secret")
    learn = make(CollectCallback(number, run=Run.create(tmp_path / "run")))
    learn.fit(1)
    collect = learn.cbs[0]
    collect.load_state_dict(
        {**collect.state_dict(), "parts": ["step-train-0000", "../../secret", str(tmp_path / "secret")]}
    )
    learn.fit(1)
    assert set(collect.samples.numpy("epoch")) == {0, 1}
    assert len(collect.samples) == 2 * N + 9


def test_another_collector_is_refused_where_rows_of_a_pass_are_to_go_on(tmp_path):
    def make_one(collectors, cbs):
        return make([CollectCallback(collectors, run=run, on=["train"]), *cbs])

    run = Run.create(tmp_path / "run")
    stopped(partial(make_one, number), 2, 3, tmp_path / "checkpoints")
    before = {path: path.read_bytes() for path in run.path.rglob("*.parquet")}
    message = r"`collectors` is \['logits'\] here, \['number'\] saved of callback CollectCallback"
    with pytest.raises(LearnerError, match=message):
        resumed(partial(make_one, logits), 2, tmp_path / "checkpoints")
    assert {path: path.read_bytes() for path in run.path.rglob("*.parquet")} == before


def test_between_two_passes_it_may_be_another(tmp_path):
    run = Run.create(tmp_path / "run")
    for n_epochs, collector in enumerate([number, logits], start=1):
        learn = make([CollectCallback(collector, run=run, on=["train"]), CheckpointCallback(tmp_path / "checkpoints")])
        learn.fit(n_epochs, resume=n_epochs > 1)
    assert run.samples.where(epoch=1).numpy("logits").shape == (N, 3)


def test_another_choice_of_loaders_mixes_no_rows_and_leaves_no_half_of_a_pass(tmp_path):
    """The rows of the pass that goes on are let go; of one not recorded from its beginning there is nothing."""
    for stop_on, go_on, expected in [
        (["train"], ["valid"], {("valid", 0): 9, ("valid", 1): 9}),
        (["valid"], ["train", "valid"], {("valid", 0): 9, ("train", 1): N, ("valid", 1): 9}),
    ]:
        place = tmp_path / stop_on[0]
        place.mkdir()
        stopped(partial(recording, place / "run", on=stop_on), 2, 3, place / "checkpoints", by_interrupt=True)
        for path in (place / "run").rglob("*.parquet"):  # of the pass that was cut short
            path.unlink()
        samples = resumed(partial(recording, place / "run", on=go_on), 2, place / "checkpoints").cbs[0].samples
        found = Counter(zip(samples.to_pandas()["split"], samples.numpy("epoch").tolist(), strict=True))
        assert found == expected
        assert (samples.numpy("example_id") == samples.numpy("number")).all()


def test_rows_are_held_in_memory_only_where_a_checkpoint_may_want_them(tmp_path, monkeypatch):
    held = []

    def look(learn):
        rows = learn.cbs[0].state_dict()["rows"]
        held.append(None if rows is None else rows["n_waiting"])

    look_on = LambdaCallback(cleanup_batch=lambda learn: learn.training and look(learn))
    make([CollectCallback(number), look_on]).fit(1)
    assert held == [None] * 6
    held.clear()
    make([CollectCallback(number), look_on, CheckpointCallback(tmp_path / "checkpoints")]).fit(1)
    assert held == [4, 8, 12, 16, 20, 22]
    monkeypatch.setattr(collection, "_packed", None)  # which keeps them
    make([CollectCallback(number, "pass"), CheckpointCallback(tmp_path / "others")]).fit(1)


def test_rows_that_have_gone_on_are_let_go(tmp_path):
    make_one = partial(recording, tmp_path / "run")
    stopped(make_one, 1, 3, tmp_path / "checkpoints")
    waiting = []
    look_on = LambdaCallback(before_batch=lambda learn: waiting.append(learn.cbs[0]._rows))
    resumed(lambda cbs: make_one([*cbs, look_on]), 1, tmp_path / "checkpoints")
    assert waiting == [None] * 6


def test_a_sandbox_in_the_middle_of_a_pass_leaves_its_rows_also_with_checkpoints(tmp_path):
    collect = CollectCallback(number, on=["train"])
    summarize = LambdaCallback(before_batch=lambda learn: learn.training and learn.summary())
    make([collect, summarize, CheckpointCallback(tmp_path / "checkpoints", every=2)]).fit(1)
    assert sorted(collect.samples.numpy("example_id")) == list(range(N))


def test_rows_that_make_no_sense_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "N_WAITING", 7)
    make_one = partial(recording, tmp_path / "run")
    stopped(make_one, 2, 3, tmp_path / "checkpoints")
    before = sorted((tmp_path / "run").rglob("*"))
    path = max((tmp_path / "checkpoints").glob("*.pt"))
    state = read_checkpoint(path)
    state["callbacks"]["CollectCallback"]["rows"]["waiting"][0] = ["nonsense"]
    write_checkpoint(path, state)
    with pytest.raises(ValueError, match="unpack"):
        resumed(make_one, 2, tmp_path / "checkpoints")
    assert sorted((tmp_path / "run").rglob("*")) == before


# -- layers and devices ------------------------------------------------------------------------------------------------


def embed(batch, output):
    return {"hidden": output.hidden_layers["0"], "first": output.hidden_layers[1].sum(1)}


def embedder():
    collector = FunctionalMetricsCollector(embed)
    collector.layers = ("0", 1)
    return collector


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("source", ["step", "pass"])
def test_layers_equal_a_capture_by_hand(source, is_compiled):
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    learn = make(model=torch.compile(model, backend="eager") if is_compiled else model)
    learn.get_preds("valid")  # compiled by now
    collect = CollectCallback(embedder(), source, on=["train"], at=0)
    learn.add_cb(collect)
    learn.fit(2, lr=0.0)
    with capture(model, "0") as acts, torch.no_grad():
        model(Points().x)
    order = np.argsort(collect.samples.numpy("example_id"))
    hidden = collect.samples.numpy("hidden")[order]
    np.testing.assert_allclose(hidden, acts["0"].numpy(), rtol=1e-5, atol=1e-6)
    assert (hidden < 0).any()  # the layer after it writes in place
    np.testing.assert_allclose(collect.samples.numpy("first")[order], hidden.sum(1), rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in learn.model.modules())


def test_a_layer_that_is_not_there_is_said_before_training():
    collector = FunctionalMetricsCollector(embed)
    collector.layers = ("3", "fc")
    learn = make(CollectCallback(collector, at=1))
    with pytest.raises(ValueError, match="`layers` must be names, globs, positions or modules of the model, got 'fc'"):
        learn.fit(2)
    assert learn.n_steps == 0


@pytest.mark.parametrize("source", ["step", "pass"])
def test_batches_are_where_the_model_is(source):
    """Told by the precision, which stands for the device here: a callback that moves batches comes before."""

    class Move(DeviceCallback):
        def before_batch(self, learn):
            learn.batch = tuple(part.double() if part.is_floating_point() else part for part in learn.batch)

    seen = set()

    def look(batch, output):
        seen.add((batch[0].dtype, output.forward.dtype))
        return number(batch, output)

    learn = make([CollectCallback(look, source), Move("cpu")])
    learn.model.double()
    learn.fit(1)
    assert seen == {(torch.float64, torch.float64)}


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "epoch"}, ValueError, "`source` must be 'step' or 'pass', got 'epoch'"),
        ({"on": "train"}, TypeError, r"`on` must be a list of names or roles of loaders, got 'train'; as \('train',\)"),
        ({"on": []}, TypeError, "`on` must be a list of names"),
        ({"on": [0]}, TypeError, "`on` must be a list of names"),
        ({"at": "last"}, ValueError, "`at` must be epochs, slices, or one of before, end, best, got 'last'"),
        ({"at": "end"}, ValueError, "`at='end'` must have source='pass'"),
        ({"name": 3}, TypeError, "`name` must be a string, got 3"),
        ({"run": "runs/1"}, TypeError, "`run` must be a Run, got 'runs/1'"),
        ({"collectors": "loss"}, TypeError, "must be collectors or functions, got 'loss'"),
    ],
)
def test_arguments_are_checked_when_it_is_made(options, error, message):
    with pytest.raises(error, match=message):
        CollectCallback(**{"collectors": number, **options})


def test_loaders_that_are_not_there_are_said():
    with pytest.raises(
        ValueError, match=r"`on` must name loaders that there are, \['train', 'valid'\] or their roles, got"
    ):
        make(CollectCallback(number, on=["test"])).fit(1)


def test_a_pass_over_what_has_no_numbers_is_refused_before_training():
    learn = make(CollectCallback(number, "pass"), valid=[(torch.zeros(1, 2), torch.tensor([0]))])
    with pytest.raises(ValueError, match=r"`source='pass'` must have loaders .* got a list as 'valid'"):
        learn.fit(1)
    assert learn.n_steps == 0
    make(CollectCallback(number, "pass", on=["train"]), valid=[(torch.zeros(1, 2), torch.tensor([0]))]).fit(1)


def test_loaders_are_named_or_meant_by_their_role():
    dls = {name: DataLoader(Points(), batch_size=4) for name in ("train", "train2", "valid", "valid2")}

    def splits(on):
        collect = CollectCallback(number, on=on)
        Learner(nn.Linear(2, 3), dls, nn.functional.cross_entropy, lr=0.01, cbs=collect).fit(1)
        return collect.samples.splits

    assert splits(("train", "valid2")) == ["train", "train2", "valid2"]
    assert splits(("train2",)) == ["train2"]


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_labels_that_were_flipped_are_found():
    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    flipped = torch.randperm(len(y), generator=generator)[: len(y) // 10]
    y[flipped] = (y[flipped] + torch.randint(1, 10, (len(flipped),), generator=generator)) % 10
    dls = Loaders.from_arrays(train=(x, y), batch_size=64)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    collect = CollectCallback(ClassificationMetricsCollector())
    Learner(model, dls, nn.functional.cross_entropy, lr=1e-2, opt_func=torch.optim.Adam, cbs=collect).fit(20)
    found = dynamics(collect.samples)
    is_flipped = np.isin(found.example_ids, flipped.numpy())
    assert roc_auc_score(is_flipped, -found.aum) >= 0.99
    suspects = found.suspects(len(flipped))["example_id"]
    assert np.isin(suspects, flipped.numpy()).mean() >= 0.93
