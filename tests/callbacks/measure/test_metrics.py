"""What is measured, over which batches, how often, and what it is called."""

import math
import warnings
from functools import partial

import pytest
import torch
import torchmetrics
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_accuracy

from callbacks import CheckpointCallback, MetricsCallback, accuracy, mean_over_samples, top_k_accuracy
from callbacks.measure import metric_pass
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelStepException,
    Learner,
    LearnerError,
)
from tests.callbacks.measure.test_metric_objects import Fields, InModule, Kept
from tests.resuming import (
    StopAt,
    assert_equal_runs,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    seed_all,
    stopped,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it still uses torch.jit.script
    import torcheval.metrics

N_SAMPLES = 23  # of which the last batch has two


class Echo(nn.Module):
    """Predict the input, so that what has to come out can be worked out from the data alone."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + 0 * self.unused


class Seen:
    """The least that a metric object needs: count samples."""

    def __init__(self):
        self.n = self.n_resets = 0

    def reset(self):
        self.n = 0
        self.n_resets += 1

    def update(self, preds, target):
        self.n += len(target)

    def compute(self):
        return self.n


def share_right(preds, target):
    """A function that does not say that it is a mean over samples, and that gives a float."""
    return (preds.argmax(1) == target).double().mean().item()


def recorded(f, may_be_joined=True):
    """Return a metric that counts how many samples it was given each time, and the list of those counts."""
    sizes = []

    def metric(preds, target):
        sizes.append(len(target))
        return f(preds, target)

    return (mean_over_samples(metric) if may_be_joined else metric), sizes


def batches_of(n_batches, size=4, length=None):
    shape = (size,) if length is None else (size, length)
    return [(torch.randn(size, 3, *shape[1:]), torch.randint(3, shape)) for _ in range(n_batches)]


def joined(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def share_right_in(batches):
    """The same by scikit-learn; metrics are float32, so it is known to about seven digits."""
    x, y = joined(batches)
    return pytest.approx(accuracy_score(y, x.argmax(1)), abs=1e-6)


def learner_of(train, cbs, loss_f=cross_entropy, **others):
    return Learner(Echo(), {"train": train, **others}, loss_f, lr=0.0, cbs=cbs)


def fitted(train, *args, n_epochs=1, **kwargs):
    learn = learner_of(train, *args, **kwargs)
    learn.fit(n_epochs)
    return learn


@pytest.fixture
def data():
    x, y = torch.randn(N_SAMPLES, 3), torch.randint(3, (N_SAMPLES,))
    return list(zip(x.split(7), y.split(7), strict=True))


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_every_kind_of_metric_agrees_with_scikit_learn_on_a_short_last_batch(data):
    cb = MetricsCallback(
        share_right,
        f1=MulticlassF1Score(num_classes=3, average="macro"),
        accuracy=accuracy,
        from_torchmetrics=MulticlassAccuracy(num_classes=3, average="micro"),
        from_torcheval=torcheval.metrics.MulticlassAccuracy(),
    )
    learn = fitted(data, cb, valid=data[2:], n_epochs=2)
    for loader, batches in {"train": data, "valid": data[2:]}.items():
        x, y = joined(batches)
        found = learn.metrics[loader]
        assert found == {
            "loss": pytest.approx(log_loss(y, x.double().softmax(1), labels=range(3)), abs=1e-5),
            "accuracy": share_right_in(batches),
            "share_right": share_right_in(batches),
            "f1": pytest.approx(f1_score(y, x.argmax(1), average="macro"), abs=1e-6),
            "from_torchmetrics": share_right_in(batches),
            "from_torcheval": share_right_in(batches),
        }
        assert list(found) == ["loss", *cb.metrics]
        assert {type(value) for value in found.values()} == {float}
        assert {f"{loader}/{name}": value for name, value in found.items()}.items() <= learn.history[-1].items()


def test_a_batch_counts_by_its_size():
    three_right, one_wrong = torch.zeros(3, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    learn = fitted([(torch.zeros(3, 2), three_right), (torch.zeros(1, 2), one_wrong)], MetricsCallback(accuracy))
    assert learn.metrics["train"] == {"loss": pytest.approx(math.log(2)), "accuracy": 0.75}


# -- many batches at once ----------------------------------------------------------------------------------------------


def test_means_over_samples_are_evaluated_for_64_batches_at_once_and_others_for_each():
    at_once, sizes = recorded(share_right)
    one_by_one, sizes_one_by_one = recorded(share_right, may_be_joined=False)
    batches = batches_of(150)
    learn = fitted(batches, MetricsCallback(at_once=at_once, one_by_one=one_by_one))
    assert sizes == [4, 64 * 4, 64 * 4, 21 * 4]  # the first by itself, to fail where it does not fit
    assert sizes_one_by_one == [4] * 150
    found = learn.metrics["train"]
    assert found["at_once"] == found["one_by_one"] == share_right_in(batches)


def test_only_batches_of_one_shape_are_evaluated_together():
    metric, sizes = recorded(accuracy)
    batches = [batches_of(1, length=length)[0] for length in (5, 5, 5, 2, 2, 5)]
    learn = fitted(batches, MetricsCallback(metric))
    assert sizes == [4, 4 + 4, 4, 4, 4]
    by_hand = [(x.argmax(1) == y).double().mean().item() for x, y in batches]
    assert learn.metrics["train"]["metric"] == pytest.approx(sum(by_hand) / len(by_hand))


@pytest.mark.parametrize(("limit", "expected"), [(40, [4, 8, 8, 4]), (20, [4] * 6)])
def test_what_waits_takes_a_bounded_memory(monkeypatch, limit, expected):
    monkeypatch.setattr(metric_pass, "_MAX_ELEMENTS", limit)  # a batch has 4 * 3 + 4
    metric, sizes = recorded(accuracy)
    fitted(batches_of(6), MetricsCallback(metric))
    assert sizes == expected


@pytest.mark.parametrize("through_numpy", [False, True], ids=["torch", "numpy, which torch does not notice"])
def test_a_loader_may_fill_the_same_memory_again(through_numpy):
    batches = batches_of(10)

    def refill():
        x, y = torch.empty(4, 3), torch.empty(4, dtype=torch.int64)
        for new_x, new_y in batches:
            if through_numpy:
                x.numpy()[:], y.numpy()[:] = new_x, new_y
            else:
                x.copy_(new_x), y.copy_(new_y)
            yield x, y

    learn = fitted(refill(), MetricsCallback(accuracy))
    assert learn.metrics["train"]["accuracy"] == share_right_in(batches)


def test_what_later_callbacks_do_to_predictions_and_targets_does_not_count(data):
    class Wipe(Callback):
        def after_batch(self, learn):
            learn.preds.detach().fill_(0)
            learn.yb.fill_(1)

    expected = share_right_in(data)
    # Copies, since what is wiped is the data itself.
    learn = fitted([(x.clone(), y.clone()) for x, y in data], [MetricsCallback(accuracy), Wipe()])
    assert learn.metrics["train"]["accuracy"] == expected


def test_a_target_without_a_batch_axis_is_never_joined():
    @mean_over_samples
    def above(preds, target):
        return preds.mean() - target

    batches = [(torch.full((2,), value), torch.tensor(1.0)) for value in (0.0, 1.0, 2.0, 3.0)]
    learn = fitted(batches, MetricsCallback(above), loss_f=lambda preds, target: preds.sum())
    assert learn.metrics["train"]["above"] == pytest.approx((-1 + 0 + 1 + 2) / 4)


def test_predictions_and_targets_that_are_no_tensors_arrive_without_their_graph():
    class Both(Echo):
        def forward(self, x):
            return {"first": super().forward(x), "second": [super().forward(x)]}

    seen = []

    @mean_over_samples
    def of_first(preds, target):
        seen.extend([preds["first"].requires_grad, preds["second"][0].requires_grad, torch.is_grad_enabled()])
        return accuracy(preds["first"], target["y"])

    def other(preds, target):
        seen.extend([preds["first"].requires_grad, torch.is_grad_enabled()])
        return 0.0

    class Update(Seen):
        def update(self, preds, target):
            seen.extend([preds["first"].requires_grad, torch.is_grad_enabled()])

    batches = batches_of(3)
    learn = learner_of([(x, {"y": y}) for x, y in batches], MetricsCallback(of_first, other, Update()))
    learn.model, learn.loss_f = Both(), lambda preds, target: cross_entropy(preds["first"], target["y"])
    learn.fit(1)
    assert learn.metrics["train"]["of_first"] == share_right_in(batches)
    assert seen == [False] * 3 * (3 + 2 + 2)


# -- which batches and passes count ------------------------------------------------------------------------------------


def at(signal, action):
    """Return a callback that does something at one signal."""
    return type("At", (Callback,), {signal: lambda self, learn: action(learn)})()


def cancel_when(condition, exception):
    def action(learn):
        if condition(learn):
            raise exception

    return action


@pytest.mark.parametrize("signal", ["before_batch", "after_predict", "after_loss", "after_step"])
def test_a_cancelled_batch_does_not_count(data, signal):
    cancel = at(signal, cancel_when(lambda learn: learn.i % 2, CancelBatchException))
    learn = fitted(data, [MetricsCallback(accuracy, share_right, Seen()), cancel])
    x, y = joined(data[::2])
    assert learn.metrics["train"] == {
        "loss": pytest.approx(log_loss(y, x.double().softmax(1), labels=range(3)), abs=1e-5),
        "accuracy": share_right_in(data[::2]),
        "share_right": share_right_in(data[::2]),
        "Seen": len(y),
    }


def test_a_cancelled_pass_leaves_nothing_to_the_next(data):
    cancel = at("after_batch", cancel_when(lambda learn: (learn.epoch, learn.i) == (0, 2), CancelEpochException))
    learn = fitted(data, [MetricsCallback(accuracy, Seen()), cancel], n_epochs=2)
    assert (learn.metrics["train"]["accuracy"], learn.metrics["train"]["Seen"]) == (share_right_in(data), N_SAMPLES)


def test_a_failed_pass_leaves_nothing_to_the_next(data):
    seen = Seen()
    learn = learner_of(data, MetricsCallback(accuracy, seen))
    with pytest.raises(RuntimeError, match="out of luck"):
        learn.fit(1, cbs=at("after_step", cancel_when(lambda learn: learn.i == 2, RuntimeError("out of luck"))))
    learn.fit(1)
    assert (learn.metrics["train"]["accuracy"], learn.metrics["train"]["Seen"]) == (share_right_in(data), N_SAMPLES)
    assert seen.n_resets == 2  # the object itself, each time: a pass that is still open would have it copied


def test_loaders_are_measured_one_by_one_and_an_object_keeps_the_last(data):
    seen = Seen()
    learn = fitted(data, MetricsCallback(seen), valid=data[:1], n_epochs=2)
    assert (learn.metrics["train"]["Seen"], learn.metrics["valid"]["Seen"], seen.n) == (N_SAMPLES, 7, 7)


@pytest.mark.parametrize("order", [-20, 0], ids=["before the batch is measured", "after"])
def test_a_validation_inside_a_training_pass_disturbs_neither(data, order):
    def cb():
        tm, te = MulticlassAccuracy(num_classes=3), torcheval.metrics.MulticlassAccuracy()
        return MetricsCallback(accuracy, share_right, Seen(), tm=tm, te=te)

    inside = []

    def validate(learn):
        if learn.training and learn.i == 1:
            inside.append(learn.validate())

    validating = at("after_batch", validate)
    validating.order = order
    plain, learn = fitted(data, cb(), valid=data[2:]), fitted(data, [cb(), validating], valid=data[2:])
    assert learn.metrics == plain.metrics
    assert inside == [plain.metrics["valid"]]


def test_passes_that_somebody_asks_for_are_measured(data):
    learn = learner_of(data, MetricsCallback(accuracy, Seen()), valid=data[2:])
    assert learn.validate()["accuracy"] == share_right_in(data[2:])
    assert learn.validate("train")["Seen"] == N_SAMPLES
    assert learn.validate(cbs=MetricsCallback(too=accuracy))["too"] == share_right_in(data[2:])


def test_infer_loaders_are_left_alone_and_leave_objects_as_they_were(data):
    seen = Seen()
    learn = fitted(data, MetricsCallback(accuracy, seen), infer=data[:1])
    assert learn.metrics.get("infer", {}) == {}
    learn.get_preds("train")
    assert (seen.n, seen.n_resets) == (N_SAMPLES, 1)


def test_without_targets_nothing_is_measured_and_no_library_complains():
    # torchmetrics warns of a `compute` before any `update`, and warnings are errors here.
    cb = MetricsCallback(accuracy, Seen(), torchmetrics.MeanSquaredError())
    learn = fitted([torch.randn(4, 3)], cb, loss_f=lambda preds: preds.sum())
    assert list(learn.metrics["train"]) == ["loss"]


def test_a_batch_without_predictions_is_not_measured():
    class EverySecond(Callback):
        def around_predict(self, learn, action):
            if learn.i % 2:
                raise CancelStepException
            action()

    learn = fitted(batches_of(4), [MetricsCallback(accuracy, share_right, Seen()), EverySecond()])
    assert learn.metrics["train"]["Seen"] == 8


def test_no_metrics_is_a_number_of_metrics(data):
    assert list(fitted(data, MetricsCallback()).metrics["train"]) == ["loss"]


def test_logged_values_come_first(data):
    log = at("after_batch", lambda learn: learn.log(two=2.0))
    assert list(fitted(data, [MetricsCallback(accuracy), log]).metrics["train"]) == ["loss", "two", "accuracy"]


def test_added_in_the_middle_of_a_pass_it_begins_with_the_next(data):
    def add(learn):
        if learn.training and learn.i == 1:
            learn.add_cb(MetricsCallback(accuracy))

    learn = fitted(data, at("after_batch", add), valid=data)
    assert list(learn.metrics["train"]) == ["loss"]
    assert learn.metrics["valid"]["accuracy"] == share_right_in(data)


# -- what measuring costs the training ---------------------------------------------------------------------------------


def test_weights_are_what_they_are_without_metrics(make_learner):
    weights = []
    for cbs in (None, MetricsCallback(accuracy, share_right, MulticlassAccuracy(num_classes=3))):
        learn = make_learner(cbs=cbs)
        torch.manual_seed(0)
        learn.fit(2)
        weights.append(list(learn.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_device_is_waited_for_at_the_end_of_a_pass_alone(monkeypatch):
    reads = set()

    def spied(name):
        read = getattr(Tensor, name)

        def spy(tensor, *args, **kwargs):
            reads.add((learn.i, learn.is_in_batch))
            return read(tensor, *args, **kwargs)

        return spy

    def not_marked(preds, target):
        return (preds.argmax(1) == target).float().mean()

    learn = learner_of(batches_of(200), MetricsCallback(accuracy, not_marked))
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(Tensor, name, spied(name))
    learn.fit(1)
    assert reads == {(199, False)}


class Elsewhere(Callback):
    """Move the predictions to another device."""

    def after_predict(self, learn):
        learn.preds = learn.preds.to("meta")

    def around_get_loss(self, learn, action):
        learn.loss = 0 * learn.model.unused


def test_an_object_goes_where_the_predictions_are():
    class Movable(Seen):
        device = None

        def to(self, device):
            self.device = device
            return self

    movable = Movable()
    learn = fitted(batches_of(2), [MetricsCallback(movable, Seen()), Elsewhere()])
    assert movable.device == torch.device("meta")
    assert learn.metrics["train"]["Movable"] == learn.metrics["train"]["Seen"] == 8


@pytest.mark.parametrize("make", [partial(MulticlassAccuracy, num_classes=3), torcheval.metrics.MulticlassAccuracy])
def test_objects_of_both_libraries_move_in_place(make):
    metric = make()
    # A meta tensor has no values to measure.
    metric.update, metric.compute = lambda preds, target: None, lambda: torch.tensor(0.5)
    fitted(batches_of(2), [MetricsCallback(metric), Elsewhere()])
    assert metric.device == torch.device("meta")


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_function_is_named_as_it_is_defined_an_object_by_its_class():
    cb = MetricsCallback(accuracy, top_k_accuracy(2), nn.L1Loss(), Seen(), Seen(), Seen(), mine=accuracy)
    assert list(cb.metrics) == ["accuracy", "top_2_accuracy", "L1Loss", "Seen", "Seen_2", "Seen_3", "mine"]


def test_objects_of_one_class_each_have_their_number(data):
    cb = MetricsCallback(*(MulticlassAccuracy(num_classes=3, average=average) for average in ("micro", "macro")))
    learn = fitted(data, cb)
    x, y = joined(data)
    assert learn.metrics["train"]["MulticlassAccuracy"] == share_right_in(data)
    balanced = pytest.approx(balanced_accuracy_score(y, x.argmax(1)), abs=1e-6)
    assert learn.metrics["train"]["MulticlassAccuracy_2"] == balanced


shared = Seen()


@pytest.mark.parametrize(
    ("unnamed", "named", "message"),
    [
        ([accuracy, accuracy], {}, "metric `accuracy` must have a name of its own, got it twice; pass one of them as"),
        ([accuracy], {"accuracy": share_right}, "metric `accuracy` must have a name of its own"),
        ([Seen()], {"Seen": share_right}, "metric `Seen` must have a name of its own"),
        ([shared, shared], {}, "metric `Seen` must be an object of its own, got one that has another name too"),
        ([], {"one": shared, "two": shared}, "metric `one` must be an object of its own"),
        ([], {"loss": accuracy}, "a metric must have another name than 'loss'"),
        ([lambda preds, target: 0.0], {}, r"a metric must have a name, got .*<lambda>.*; pass it as `name=...`"),
        ([partial(accuracy, target=None)], {}, r"a metric must have a name, got functools\.partial"),
    ],
)
def test_names_that_would_get_lost(unnamed, named, message):
    with pytest.raises(ValueError, match=message):
        MetricsCallback(*unnamed, **named)


@pytest.mark.parametrize(
    ("unnamed", "named", "message"),
    [
        ([Seen], {}, r"metric `Seen` must be a function .*, or an object with .*; pass Seen\(\)"),
        ([[accuracy]], {}, "metric `list` must be a function .*; pass metrics one by one"),
        ([None], {}, "metric `NoneType` must be a function"),
        ([], {"acc": "accuracy"}, "metric `acc` must be a function .*, got 'accuracy'"),
    ],
)
def test_what_is_no_metric(unnamed, named, message):
    with pytest.raises(TypeError, match=message):
        MetricsCallback(*unnamed, **named)


def test_two_callbacks_with_one_name_are_refused_before_anything_is_trained(data):
    learn = learner_of(data, [MetricsCallback(accuracy), MetricsCallback(accuracy)])
    with pytest.raises(ValueError, match="metric `accuracy` must have a name of its own, got it twice"):
        learn.fit(1)
    assert learn.n_samples == 0


def test_a_name_that_is_logged_too_is_refused(data):
    log = at("after_batch", lambda learn: learn.log(accuracy=1.0))
    with pytest.raises(ValueError, match="metric `accuracy` must have a name of its own, got it twice"):
        fitted(data, [MetricsCallback(accuracy), log])


# -- results that are no number ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("may_be_joined", [True, False])
@pytest.mark.parametrize("result", [torch.ones(7), None, {"a": 1.0}, "0.5"], ids=repr)
def test_a_result_that_is_no_number_is_refused_at_the_first_batch(data, result, may_be_joined):
    metric, _ = recorded(lambda preds, target: result, may_be_joined)
    learn = learner_of(data, MetricsCallback(hits=metric))
    with pytest.raises(ValueError, match="`hits` must be a scalar, got") as caught:
        learn.fit(1)
    assert "in MetricsCallback.after_batch, epoch 0, loader 'train', batch 0" in caught.value.__notes__[0]


def test_an_object_that_gives_several_numbers_is_refused(data):
    with pytest.raises(ValueError, match=r"`by_class` must be a scalar, got Tensor\(3,\)"):
        fitted(data, MetricsCallback(by_class=MulticlassAccuracy(num_classes=3, average="none")))


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


def gap(preds, target):
    return (preds.amax(1) - preds.gather(1, target[:, None])[:, 0]).mean()


def measured(cbs, *metrics):
    """Metrics of every kind; functions are evaluated for several batches at once, and the last batch is shorter."""
    of_3 = {"num_classes": 3, "validate_args": False}
    of_libraries = {
        "f1": MulticlassF1Score(average="macro", **of_3),
        "gathering": torchmetrics.classification.MulticlassAUROC(**of_3),
        "running": torchmetrics.wrappers.Running(MulticlassAccuracy(**of_3), window=2),
        "composed": MulticlassAccuracy(**of_3) + 2 * MulticlassF1Score(**of_3),
        "from_torcheval": torcheval.metrics.MulticlassAccuracy(),
        "gathering_too": torcheval.metrics.MulticlassAUROC(num_classes=3),
    }
    metrics = metrics or (accuracy, gap, Fields(), Kept(), InModule())
    return tiny_learner([MetricsCallback(*metrics, **of_libraries), *cbs])


@pytest.mark.parametrize("at_once", [64, 2])
def test_what_was_measured_goes_on_from_every_batch(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(metric_pass, "_MAX_BATCHES", at_once)
    whole, gone_on = resumed_from_each(measured, 3, tmp_path)
    assert len(gone_on) == 18
    for learn in gone_on + resumed_from_each_validation(measured, 3, tmp_path):
        assert_equal_runs(learn, whole)
    assert len(whole.metrics["valid"]) == 1 + 5 + 6
    for name in whole.metrics["valid"]:
        assert len({row[f"{loader}/{name}"] for row in whole.history for loader in ("train", "valid")}) > 1


def test_batches_that_wait_are_evaluated_as_they_would_have_been(tmp_path):
    def make(cbs):
        metric, sizes = recorded(accuracy)
        learn = tiny_learner([MetricsCallback(metric), *cbs])
        learn.sizes = sizes
        return learn

    learn = stopped_and_resumed(make, 1, 3, tmp_path)
    # The first stands alone, four wait, two of them in the checkpoint; the shorter one stands alone again.
    assert learn.sizes == [16, 2, 4, 4, 2]


def test_a_checkpoint_between_two_passes_keeps_no_metrics_of_any_kind(tmp_path):
    def make(cbs, *metrics):
        return tiny_learner([MetricsCallback(*metrics), *cbs])

    odd = Fields()
    odd.odd = object()
    stopped(lambda cbs: make(cbs, odd), 3, 9, tmp_path, every="epoch")
    learn = resumed(lambda cbs: make(cbs, accuracy), 3, tmp_path, every="epoch")
    assert [sorted(row) for row in learn.history] == [
        ["epoch", "train/Fields", "train/loss", "valid/Fields", "valid/loss"],
        *[["epoch", "train/accuracy", "train/loss", "valid/accuracy", "valid/loss"]] * 2,
    ]


def test_what_is_no_plain_data_is_named_at_the_first_checkpoint_within_a_pass(tmp_path):
    odd = Fields()
    odd.odd = object()
    learn = tiny_learner([MetricsCallback(odd), CheckpointCallback(tmp_path, every=2)])
    place = r"`state\['callbacks'\]\['MetricsCallback'\]\['objects'\]\['Fields'\]\['parts'\]\[''\]\['odd'\]`"
    with pytest.raises(TypeError, match=f"{place} must be plain data, got object"):
        learn.fit(1)


named_gap = Fields()
named_gap.__name__ = "gap"


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (
            [accuracy],
            r"what is measured is {'accuracy': 'function', .*} here, {'accuracy': 'function', 'gap': .* saved of",
        ),
        ([accuracy, named_gap, Fields(), Kept(), InModule()], "'gap': 'Fields', .* here, .* 'gap': 'function', "),
    ],
)
def test_other_metrics_are_refused_within_a_pass(tmp_path, other, match):
    stopped(measured, 1, 3, tmp_path)
    with pytest.raises(LearnerError, match=match):
        resumed(lambda cbs: measured(cbs, *other), 1, tmp_path)


def test_between_two_fits_and_in_another_pass_it_is_saved_and_loaded(tmp_path):
    saved, other = measured([]), measured([])
    stopped(measured, 1, 4, tmp_path / "stopped")
    saved.fit(1)
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    for learn in (saved, other):
        seed_all(0)
        learn.fit(1)
    assert_equal_runs(saved, other)
    third = measured([CheckpointCallback(tmp_path / "third"), StopAt()])
    third.load(next((tmp_path / "stopped").glob("*4.pt")))  # of the middle of a pass
    n = []
    third.validate(cbs=at("after_epoch", lambda learn: n.append(third.cbs[0]._pass._objects["Fields"].n)))
    assert n == [10]


def test_an_object_that_has_seen_nothing_has_seen_nothing_after_a_resume(tmp_path):
    """torchmetrics warns of a `compute` before any `update`, and warnings are errors here."""

    class NoPrediction(Callback):
        def around_predict(self, learn, action):
            raise CancelStepException

    def make(cbs):
        return tiny_learner([MetricsCallback(MulticlassAccuracy(num_classes=3)), NoPrediction(), *cbs])

    assert_equal_runs(stopped_and_resumed(make, 1, 3, tmp_path / "stopped"), uninterrupted(make, 1, tmp_path / "whole"))


@pytest.mark.parametrize("f", [accuracy, top_k_accuracy(2)], ids=lambda f: f.__name__)
def test_batches_with_few_labels_weigh_little_as_in_torchmetrics(f):
    """Seven batches of one kind, which are joined, and a last one of another; one has no label that counts."""
    targets = torch.randint(3, (30, 4))
    targets[torch.rand(30, 4) < torch.linspace(0, 1, 30)[:, None]] = -100
    targets[8:12] = -100
    inputs = torch.randn(30, 3, 4)
    data = [(inputs[i : i + 4], targets[i : i + 4]) for i in range(0, 30, 4)]
    learn = Learner(nn.Identity(), {"valid": data}, nn.functional.cross_entropy, cbs=MetricsCallback(f))
    k = 1 if f is accuracy else 2
    expected = multiclass_accuracy(inputs, targets, num_classes=3, average="micro", top_k=k, ignore_index=-100)
    metrics = learn.validate()
    assert metrics[f.__name__] == pytest.approx(expected.item())
    assert set(metrics) == {"loss", f.__name__}


def test_a_pass_without_a_label_has_no_accuracy():
    data = [(torch.randn(2, 3), torch.tensor([-100, -100]))]
    learn = Learner(nn.Identity(), {"valid": data}, lambda preds, y: preds.mean(), cbs=MetricsCallback(accuracy))
    assert math.isnan(learn.validate()["accuracy"])
