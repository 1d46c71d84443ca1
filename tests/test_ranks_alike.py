"""Any number of processes is the same training: one, two and four of them make the same steps, numbers and files.

Weights are in float64, and shares of a batch are added up in another order, so they are the same to rounding; between
the processes of one training they are the same to the bit.
"""

import warnings

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    ClassificationMetricsCollector,
    ClipGradientCallback,
    CollectCallback,
    DistributedCallback,
    EarlyStoppingCallback,
    EMACallback,
    EpochLengthCallback,
    LossWeightCallback,
    MetricsCallback,
    SchedulerCallback,
    ValidateCallback,
    accuracy,
)
from learner import Callback, CancelStepException, Learner
from learner.interrogate import capture
from tests.ranks import TIMEOUT, Noisy, in_each, largest, loaders, network, weights

WORLDS = (2, 4)
EXACT = 1e-11  # of weights, after some forty steps
VERY_EXACT = 1e-13  # after eight, as of windows of five batches
FLOAT32 = 1e-7  # of means that are measured in float32


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def batches(n=101):
    data = Noisy(n, noise=0.0)
    return list(zip(data.x.split(12), data.y.split(12), strict=True))


def summed(preds, target):
    return cross_entropy(preds, target, reduction="sum") / 100


summed.reduction = "sum"


class DropOne(Callback):
    """Leave out a step in one process alone; the others leave it out, too."""

    def after_backward(self, learn):
        if learn.i == 3 and learn.job.rank == learn.job.world - 1:
            raise CancelStepException


def ignored(learn):
    """Weigh a batch by the samples whose label is 1, as a loss with `ignore_index=0` does."""
    return (learn.yb == 1).sum()


# What is trained, and by what besides: a fit's options, loaders, the loss and callbacks.
CASES = {
    "plain": {},
    "workers": {"dls": lambda: loaders(workers=2)},
    "accumulated and clipped": {"cbs": lambda: [AccumulateCallback(5), ClipGradientCallback(0.3)]},
    "a batch of one": {"dls": lambda: loaders(97)},
    "a batch of one, accumulated": {"dls": lambda: loaders(97), "cbs": lambda: [AccumulateCallback(5)]},
    "lists": {"dls": lambda: {"train": batches(), "valid": batches(55)}},
    "a step left out": {"cbs": lambda: [DropOne()]},
    "a sum as loss": {"loss_f": summed, "lr": 0.1},
    "labels left out": {
        "loss_f": nn.CrossEntropyLoss(ignore_index=0),
        "cbs": lambda: [LossWeightCallback(weight_of=ignored)],
    },
    "labels left out, accumulated": {
        "loss_f": nn.CrossEntropyLoss(ignore_index=0),
        "cbs": lambda: [LossWeightCallback(weight_of=ignored), AccumulateCallback(3)],
    },
    "an average of weights": {"cbs": lambda: [EMACallback(0.9)]},
    "rates by a plateau": {"cbs": lambda: [plateau()]},
    "steps over short epochs": {"fit": {"steps": 8}, "cbs": lambda: [EpochLengthCallback(train=5)]},
    "validated in between": {"cbs": lambda: [ValidateCallback(every=4)]},
}


def plateau():
    return SchedulerCallback(lambda opt: ReduceLROnPlateau(opt, patience=0, factor=0.5), metric="valid/loss")


def train(case):
    """Train as a case says; return what can be compared."""
    given = {"dls": loaders, "loss_f": cross_entropy, "cbs": list, "lr": 0.5, "fit": {"n_epochs": 4}}
    given.update(CASES[case])
    distributed = DistributedCallback(timeout=TIMEOUT)
    best, stopping = BestModelCallback(), EarlyStoppingCallback(patience=1, min_delta=1e-3)
    cbs = [distributed, MetricsCallback(accuracy=accuracy), best, stopping, *given["cbs"]()]
    learn = Learner(network(), given["dls"](), given["loss_f"], given["lr"], momentum, cbs)
    with warnings.catch_warnings(action="ignore"):  # of a sum as loss, which is what one case is about
        learn.fit(**given["fit"])
    preds, targets = learn.get_preds("valid")
    return {
        "weights": weights(learn),
        "history": learn.history.to_dict(),
        "counts": (learn.n_steps, learn.n_samples, learn.n_skipped, len(learn.history)),
        "decisions": (best.best.epoch, stopping.stopped_epoch),
        "preds": preds,
        "targets": targets,
        "lr": [group["lr"] for group in learn.opt.param_groups],
    }


def train_all():
    torch.manual_seed(0)
    return {case: train(case) for case in CASES}


@pytest.fixture(scope="module")
def alone():
    """What one process makes of all cases."""
    return in_each(1, train_all)[0]


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def several(request):
    """What each of several processes makes of all cases."""
    return in_each(request.param, train_all)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_training_of_one_process(alone, several, case):
    one, first = alone[case], several[0][case]
    assert first["counts"] == one["counts"]
    assert first["decisions"] == one["decisions"]
    assert first["lr"] == one["lr"]
    exact = VERY_EXACT if first["counts"][0] <= 8 else EXACT
    assert (first["weights"] - one["weights"]).abs().max() <= exact
    assert first["history"].keys() == one["history"].keys()
    for name, values in one["history"].items():
        assert first["history"][name] == pytest.approx(values, rel=0, abs=FLOAT32), name
    assert torch.equal(first["targets"], one["targets"])
    assert (first["preds"] - one["preds"]).abs().max() <= EXACT


@pytest.mark.parametrize("case", CASES)
def test_all_processes_have_the_same_bits(several, case):
    first, *others = (each[case] for each in several)
    for other in others:
        for name in ("weights", "preds", "targets"):
            assert torch.equal(other[name], first[name]), name
        for name in ("history", "counts", "decisions", "lr"):
            assert other[name] == first[name], name


def test_the_cases_are_what_they_say(alone):
    assert alone["a step left out"]["counts"][2] > 0
    assert alone["rates by a plateau"]["lr"] != alone["plain"]["lr"]
    assert alone["steps over short epochs"]["counts"][0] == 8
    assert not torch.equal(alone["labels left out"]["weights"], alone["plain"]["weights"])
    assert torch.equal(alone["workers"]["weights"], alone["plain"]["weights"])


# -- what is measured, predicted, recorded -----------------------------------------------------------------------------


class NaNStandIn(Callback):
    """Let the model give NaN in a process without a share, as a batch norm of one sample may."""

    def after_predict(self, learn):
        n = learn.global_batch_size or len(learn.xb)
        if learn.job.rank >= n:
            learn.preds = learn.preds * float("nan")


def see_it_all():
    distributed = DistributedCallback(timeout=TIMEOUT)
    seen = {}
    for n in (1, 3, 54, 55, 56):
        data = Noisy(n, noise=0.0)
        learn = Learner(network(), {"valid": DataLoader(data, 7)}, cross_entropy, cbs=distributed)
        seen["preds", n] = [*learn.get_preds("valid"), learn.validate()["loss"], *learn.get_preds([data.x])[:1]]
    seen["stand-ins"] = with_stand_ins(distributed)
    seen["objects"] = with_objects(distributed)
    seen["collected"] = collected(distributed)
    seen["looks"] = looks(distributed)
    return seen


def with_stand_ins(distributed):
    data = Noisy(1, noise=0.0)
    cbs = [distributed, NaNStandIn(), MetricsCallback(accuracy=accuracy)]
    learn = Learner(network(), {"train": [(data.x, data.y)], "valid": [(data.x, data.y)]}, cross_entropy, cbs=cbs)
    learn.fit(2)
    return weights(learn), learn.history.to_dict()


def with_objects(distributed):
    rows = []
    for n in (1, 55):
        x, y = Noisy(n, noise=0.0)[:]
        metrics = torchmetrics.classification.MulticlassF1Score(2), torchmetrics.classification.MulticlassAUROC(2)
        dls = {"train": [(x, y)], "valid": DataLoader(TensorDataset(x, y), 7)}
        learn = Learner(network(), dls, cross_entropy, cbs=[distributed, MetricsCallback(metrics[0])])
        learn.fit(1)
        rows.append({name: values for name, values in learn.history.to_dict().items() if "F1" in name})
    return rows


def collected(distributed):
    found = {}
    for source in ("step", "pass"):
        dls = {"train": DataLoader(Noisy(29, noise=0.0), 6, shuffle=True), "valid": DataLoader(Noisy(13, noise=0.0), 4)}
        collect = CollectCallback(ClassificationMetricsCollector(), source=source)
        learn = Learner(network(), dls, cross_entropy, cbs=[distributed, collect])
        learn.fit(2)
        found[source] = {
            name: collect.samples.numpy(name).tolist() for name in ("epoch", "split", "example_id", "loss")
        }
    return found


def looks(distributed):
    """Return what is to be seen of a learner between its fits: each process has to see the same, and all of it."""
    data = Noisy(55, noise=0.0)
    dls = {**loaders(), "test": batches(13), "test_one": batches(1)}
    learn = Learner(network(), dls, cross_entropy, 0.5, momentum, cbs=distributed)
    before = weights(learn)
    with learn.sandbox():
        learn.fit(1)
        tried = weights(learn)
    rates = learn.lr_find(n=20, plot=False)
    back = weights(learn)
    learn.fit(1)
    with capture(learn.model, "1") as acts:
        learn.model(data.x)
    found = {name: learn.interpret(name) for name in ("valid", "test", "test_one")}
    return {
        "numbers": {
            "tried": tried,
            "rates": torch.tensor([rates.lrs, rates.losses], dtype=torch.float64),
            "suggestion": torch.tensor(rates.suggestion, dtype=torch.float64),
            "trained": weights(learn),
            "one": learn.infer(data.x[0]).probs,
            "some": learn.infer(data.x[:5]).preds,
            "captured": acts["1"].detach(),
            "summary": torch.tensor([float(n) for n in str(learn.summary()).split() if n.isdigit()]),
            **{f"loss {name}": torch.tensor(one.samples.numpy("loss")) for name, one in found.items()},
            **{f"confusion {name}": torch.tensor(one.confusion) for name, one in found.items()},
        },
        "exactly": (
            torch.equal(before, back),
            learn.n_steps,
            {name: one.samples.numpy("example_id").tolist() for name, one in found.items()},
            [found["valid"].per_class()[name].tolist() for name in ("class", "count", "recall")],
        ),
    }


@pytest.fixture(scope="module")
def seen_alone():
    return in_each(1, see_it_all)[0]


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def seen(request):
    return in_each(request.param, see_it_all)


@pytest.mark.parametrize("n", [1, 3, 54, 55, 56])
def test_all_predictions_come_once_and_in_order(seen_alone, seen, n):
    one = seen_alone["preds", n]
    assert len(one[0]) == n
    for each in seen:
        preds, targets, loss, of_tensor = each["preds", n]
        assert (preds - one[0]).abs().max() <= EXACT
        assert torch.equal(targets, one[1])
        assert loss == pytest.approx(one[2], abs=EXACT)
        assert (of_tensor - one[3]).abs().max() <= EXACT


def test_a_stand_in_counts_for_nothing_whatever_it_gives(seen_alone, seen):
    expected, history = seen_alone["stand-ins"]
    for each in seen:
        got, its_history = each["stand-ins"]
        assert (got - expected).abs().max() <= EXACT
        for name, values in history.items():
            assert its_history[name] == pytest.approx(values, abs=FLOAT32), name


def test_metric_objects_have_seen_all_also_where_a_process_had_nothing(seen_alone, seen):
    for each in seen:
        for rows, of_one in zip(each["objects"], seen_alone["objects"], strict=True):
            assert rows.keys() == of_one.keys() != set()
            assert all(rows[name] == pytest.approx(of_one[name], abs=FLOAT32) for name in rows)


@pytest.mark.parametrize(("source", "n_epochs"), [("step", 2), ("pass", 3)])
def test_each_sample_is_on_record_once_an_epoch(seen_alone, seen, source, n_epochs):
    one = seen_alone["collected"][source]
    assert len(one["loss"]) == n_epochs * (29 + 13)
    for each in seen:
        rows = each["collected"][source]
        keys = list(zip(rows["epoch"], rows["split"], rows["example_id"], strict=True))
        assert keys == list(zip(one["epoch"], one["split"], one["example_id"], strict=True))
        assert len(set(keys)) == len(keys)
        assert largest(a - b for a, b in zip(rows["loss"], one["loss"], strict=True)) <= FLOAT32


def test_what_is_looked_at_between_fits_is_all_of_it_in_each_process(seen_alone, seen):
    one = seen_alone["looks"]
    assert one["exactly"][0]
    assert one["exactly"][2] == {"valid": [*range(54)], "test": [*range(13)], "test_one": [0]}
    for each in seen:
        assert each["looks"]["exactly"] == one["exactly"]
        for name, value in one["numbers"].items():
            found = each["looks"]["numbers"][name]
            assert found.shape == value.shape, name
            assert (found - value).abs().max() <= (FLOAT32 if value.dtype == torch.float32 else EXACT), name


# -- one process with the callback -------------------------------------------------------------------------------------


@pytest.fixture
def collectives(monkeypatch):
    """Count what would be asked of other processes."""
    calls = []
    for name in ("all_reduce", "all_gather", "broadcast", "barrier", "new_group", "init_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *args, name=name, **kwargs: calls.append(name))
    return calls


def test_without_a_launcher_it_is_the_training_with_a_checkpoint_alone(collectives, tmp_path):
    """Both make order and noise functions of position, and nothing is asked of anybody."""
    trained = []
    for n, cbs in enumerate(([], [DistributedCallback()])):
        learn = Learner(
            network(0.2), loaders(), cross_entropy, 0.5, momentum, [CheckpointCallback(tmp_path / f"{n}"), *cbs]
        )
        learn.fit(3)
        trained.append((weights(learn), learn.history.to_dict()))
    assert torch.equal(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]
    assert collectives == []
