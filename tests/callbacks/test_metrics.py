import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sklearn.metrics
import torch
import torchmetrics
from torch import Tensor, nn

from callbacks import MetricsCallback, accuracy, mean_over_samples, top_k_accuracy
from callbacks import metrics as module
from learner import Callback, CancelBatchException, CancelEpochException, CancelStepException, Learner

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it still uses torch.jit.script
    import torcheval.metrics

MakeLearner = Callable[..., Learner]


def share_of_ones(preds: Tensor, target: Tensor) -> Tensor:
    """A mean that does not say so."""
    return (target == 1).float().mean()


def n_hits(preds: Tensor, target: Tensor) -> float:
    return float((preds.argmax(1) == target).float().mean())


class Count:
    """An object with the least that is asked for."""

    def __init__(self) -> None:
        self.n = self.n_resets = 0

    def reset(self) -> None:
        self.n, self.n_resets = 0, self.n_resets + 1

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.n += len(target)

    def compute(self) -> int:
        return self.n


class Calls:
    """Count the calls of a metric, and the batch sizes."""

    def __init__(self, f: Callable[..., Any] = accuracy, is_mean: bool = True) -> None:
        self.f, self.sizes = f, list[int]()
        if is_mean:
            mean_over_samples(self)

    def __call__(self, preds: Tensor, target: Tensor) -> Any:
        self.sizes.append(len(target))
        return self.f(preds, target)


class Still(nn.Module):
    """Predict the input, whatever the optimizer does: then numbers can be had by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.zero


def still(train: Any, valid: Any = None, cbs: Any = None, loss_f: Any = nn.functional.cross_entropy) -> Learner:
    dls = {"train": train} | ({} if valid is None else {"valid": valid})
    return Learner(Still(), dls, loss_f, lr=0.0, cbs=cbs)


@pytest.fixture
def ragged() -> list[tuple[Tensor, Tensor]]:
    """Batches of 7, 7, 7 and 2."""
    x, y = torch.randn(23, 3), torch.randint(0, 3, (23,))
    return list(zip(x.split(7), y.split(7), strict=True))


def whole(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


# -- numbers against an outside reference --------------------------------------------------------------------------


def test_every_kind_of_metric_against_sklearn_with_a_ragged_last_batch(ragged: list[tuple[Tensor, Tensor]]) -> None:
    cb = MetricsCallback(
        accuracy,
        n_hits,
        tm=torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro"),
        f1=torchmetrics.classification.MulticlassF1Score(num_classes=3, average="macro"),
        te=torcheval.metrics.MulticlassAccuracy(),
    )
    learn = still(ragged, ragged[1:], cb)
    learn.fit(2)
    for name, batches in (("train", ragged), ("valid", ragged[1:])):
        x, y = whole(batches)
        truth = sklearn.metrics.accuracy_score(y, x.argmax(1))
        for metric in ("accuracy", "n_hits", "tm", "te"):
            assert learn.metrics[name][metric] == pytest.approx(truth, abs=1e-6)  # float32 means
        f1 = sklearn.metrics.f1_score(y, x.argmax(1), average="macro")
        assert learn.metrics[name]["f1"] == pytest.approx(f1, abs=1e-6)
        loss = sklearn.metrics.log_loss(y, x.double().softmax(1), labels=[0, 1, 2])
        assert learn.metrics[name]["loss"] == pytest.approx(loss, abs=1e-5)
    assert list(learn.metrics["train"]) == ["loss", "accuracy", "n_hits", "tm", "f1", "te"]
    assert all(type(value) is float for value in learn.metrics["train"].values())
    assert learn.history[1]["valid/f1"] == learn.metrics["valid"]["f1"]


def test_weights_are_batch_sizes_by_hand() -> None:
    batches = [(torch.zeros(3, 2), torch.tensor([0, 0, 0])), (torch.zeros(1, 2), torch.tensor([1]))]
    learn = still(batches, cbs=MetricsCallback(accuracy, share_of_ones))
    learn.fit(1)
    assert learn.metrics["train"] == {"loss": pytest.approx(math.log(2)), "accuracy": 0.75, "share_of_ones": 0.25}


def test_a_mean_over_samples_is_evaluated_for_many_batches_at_once() -> None:
    batches = [(torch.randn(4, 3), torch.randint(0, 3, (4,))) for _ in range(150)]
    calls, each = Calls(), Calls(is_mean=False)
    learn = still(batches, cbs=MetricsCallback(joined=calls, each=each))
    learn.fit(1)
    assert calls.sizes == [4, 64 * 4, 64 * 4, 21 * 4]
    assert each.sizes == [4] * 150
    x, y = whole(batches)
    truth = sklearn.metrics.accuracy_score(y, x.argmax(1))
    assert learn.metrics["train"]["joined"] == pytest.approx(truth, abs=1e-6)
    assert learn.metrics["train"]["each"] == pytest.approx(truth, abs=1e-6)


def test_batches_of_changing_shape_are_not_joined() -> None:
    lengths = [5, 5, 5, 2, 2, 5]
    batches = [(torch.randn(4, 3, n), torch.randint(0, 3, (4, n))) for n in lengths]
    calls = Calls()
    learn = still(batches, cbs=MetricsCallback(calls=calls))
    learn.fit(1)
    assert calls.sizes == [4, 8, 4, 4, 4]
    truth = sum(float(accuracy(x, y)) for x, y in batches) / len(batches)
    assert learn.metrics["train"]["calls"] == pytest.approx(truth)


def test_what_waits_is_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 40)  # a batch is 4 * 3 + 4
    calls = Calls()
    batches = [(torch.randn(4, 3), torch.randint(0, 3, (4,))) for _ in range(6)]
    still(batches, cbs=MetricsCallback(calls=calls)).fit(1)
    assert calls.sizes == [4, 8, 8, 4]
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 20)
    calls.sizes.clear()
    still(batches, cbs=MetricsCallback(calls=calls)).fit(1)
    assert calls.sizes == [4] * 6


@pytest.mark.parametrize("is_numpy", [False, True])
def test_a_loader_that_fills_one_buffer_again_and_again(is_numpy: bool) -> None:
    x, y = torch.randn(10, 4, 3), torch.randint(0, 3, (10, 4))
    x_buffer, y_buffer = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for xb, yb in zip(x, y, strict=True):
                if is_numpy:  # which torch does not notice
                    x_buffer.numpy()[:], y_buffer.numpy()[:] = xb.numpy(), yb.numpy()
                else:
                    x_buffer.copy_(xb)
                    y_buffer.copy_(yb)
                yield x_buffer, y_buffer

    learn = still(Loader(), cbs=MetricsCallback(accuracy))
    learn.fit(1)
    truth = sklearn.metrics.accuracy_score(y.flatten(), x.flatten(0, 1).argmax(1))
    assert learn.metrics["train"]["accuracy"] == pytest.approx(truth, abs=1e-6)


def test_predictions_changed_in_place_after_they_were_measured(ragged: list[tuple[Tensor, Tensor]]) -> None:
    class Spoil(Callback):
        def after_batch(self, learn: Learner) -> None:
            learn.preds.detach().zero_()
            learn.yb.fill_(2)

    x, y = whole(ragged)
    truth = sklearn.metrics.accuracy_score(y, x.argmax(1))
    learn = still(ragged, cbs=[MetricsCallback(accuracy), Spoil()])
    learn.fit(1)
    assert learn.metrics["train"]["accuracy"] == pytest.approx(truth, abs=1e-6)


def test_scalars_as_predictions_and_targets_are_not_joined() -> None:
    @mean_over_samples
    def gap(preds: Tensor, target: Tensor) -> Tensor:
        return preds.mean() - target

    batches = [(torch.full((2,), float(i)), torch.tensor(1.0)) for i in range(4)]
    learn = still(batches, cbs=MetricsCallback(gap), loss_f=lambda preds, target: preds.sum())
    learn.fit(1)
    assert learn.metrics["train"]["gap"] == pytest.approx(0.5)


def test_targets_and_predictions_that_are_no_tensors_reach_the_metric() -> None:
    @mean_over_samples
    def first_accuracy(preds: tuple[Tensor, Tensor], target: dict[str, Tensor]) -> Tensor:
        assert not preds[0].requires_grad
        return accuracy(preds[0], target["y"])

    class Two(Still):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), [x, {"x": x}]

    class Keep:
        def reset(self) -> None:
            self.kept: list[Any] = []

        def update(self, preds: Any, target: Any) -> None:
            assert not torch.is_grad_enabled()
            self.kept.append(preds)

        def compute(self) -> float:
            return float(sum(preds[0].requires_grad for preds in self.kept))

    x, y = torch.randn(6, 3), torch.randint(0, 3, (6,))
    batches = [(x[:4], {"y": y[:4]}), (x[4:], {"y": y[4:]})]
    cb = MetricsCallback(first_accuracy, with_graph=Keep())
    learn = Learner(Two(), {"train": batches}, lambda p, t: nn.functional.cross_entropy(p[0], t["y"]), lr=0.0, cbs=cb)
    learn.predict = lambda: setattr(learn, "preds", learn.model(learn.xb))  # type: ignore[method-assign]
    learn.fit(1)
    truth = sklearn.metrics.accuracy_score(y, x.argmax(1))
    assert learn.metrics["train"]["first_accuracy"] == pytest.approx(truth, abs=1e-6)
    assert learn.metrics["train"]["with_graph"] == 0.0


# -- what counts, and what does not ----------------------------------------------------------------------------------


class CancelOdd(Callback):
    def __init__(self, signal: str) -> None:
        setattr(self, signal, self.cancel)

    def cancel(self, learn: Learner) -> None:
        if learn.i % 2:
            raise CancelBatchException


@pytest.mark.parametrize("signal", ["before_batch", "after_predict", "after_loss", "after_step"])
def test_cancelled_batches_do_not_count(signal: str, ragged: list[tuple[Tensor, Tensor]]) -> None:
    learn = still(ragged, cbs=[MetricsCallback(accuracy, n_hits, count=Count()), CancelOdd(signal)])
    learn.fit(1)
    x, y = whole(ragged[::2])
    truth = pytest.approx(sklearn.metrics.accuracy_score(y, x.argmax(1)), abs=1e-6)
    assert learn.metrics["train"] == {
        "loss": pytest.approx(float(nn.functional.cross_entropy(x, y))),
        "accuracy": truth,
        "n_hits": truth,
        "count": 14.0,
    }


def test_a_cancelled_pass_leaves_nothing_for_the_next(ragged: list[tuple[Tensor, Tensor]]) -> None:
    class Cancel(Callback):
        def after_batch(self, learn: Learner) -> None:
            if learn.epoch == 0 and learn.i == 2:
                raise CancelEpochException

    learn = still(ragged, cbs=[MetricsCallback(accuracy, count=Count()), Cancel()])
    learn.fit(2)
    x, y = whole(ragged)
    assert learn.metrics["train"]["count"] == 23.0
    assert learn.metrics["train"]["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, x.argmax(1)), abs=1e-6)


def test_an_error_in_a_pass_leaves_nothing_for_the_next(ragged: list[tuple[Tensor, Tensor]]) -> None:
    count = Count()
    learn = still(ragged, cbs=MetricsCallback(accuracy, count=count))
    learn.model.forward, forward = lambda x: 1 / 0, learn.model.forward  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        learn.fit(1)
    learn.model.forward = forward  # type: ignore[method-assign]
    learn.fit(1)
    assert count.n_resets == 2  # once a pass, so it is the object itself and no copy for an inner pass
    assert learn.metrics["train"]["count"] == 23.0


def test_train_and_valid_do_not_mix(make_learner: MakeLearner) -> None:
    count = Count()
    learn = make_learner(cbs=MetricsCallback(count))
    learn.fit(2)
    assert learn.metrics["train"]["Count"] == 40.0
    assert learn.metrics["valid"]["Count"] == 20.0
    assert count.n == 20  # the user's own object has the last pass, to be asked for more


class ValidateWithin(Callback):
    """Validate in the middle of a training pass."""

    def __init__(self, order: float = 0) -> None:
        self.order = order
        self.results: list[dict[str, float]] = []

    def after_batch(self, learn: Learner) -> None:
        if learn.training and learn.i == 1:
            self.results.append(learn.validate())


@pytest.mark.parametrize("order", [-20, 0])
def test_a_validation_within_a_pass_disturbs_nothing(ragged: list[tuple[Tensor, Tensor]], order: float) -> None:
    def metrics() -> MetricsCallback:
        return MetricsCallback(
            accuracy,
            n_hits,
            Count(),
            torchmetrics.classification.MulticlassAccuracy(num_classes=3),
            te=torcheval.metrics.MulticlassAccuracy(),
        )

    plain = still(ragged, ragged[1:], metrics())
    plain.fit(1)
    within = ValidateWithin(order)
    learn = still(ragged, ragged[1:], [metrics(), within])
    learn.fit(1)
    assert learn.metrics == plain.metrics
    assert within.results == [plain.metrics["valid"]]
    assert plain.metrics["train"]["Count"] == 23.0
    assert plain.metrics["valid"]["Count"] == 16.0


def test_validate_outside_a_fit(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=MetricsCallback(accuracy, Count()))
    preds, target = learn.get_preds()
    truth = pytest.approx(sklearn.metrics.accuracy_score(target, preds.argmax(1)), abs=1e-6)
    assert learn.validate() == {"loss": pytest.approx(1.0, abs=0.9), "accuracy": truth, "Count": 20.0}
    assert learn.validate(cbs=MetricsCallback(again=accuracy))["again"] == truth


def test_infer_loaders_are_not_measured_and_leave_objects_as_they_are(ragged: list[tuple[Tensor, Tensor]]) -> None:
    count = Count()
    learn = Learner(
        Still(),
        {"train": ragged, "infer": ragged[:1]},
        nn.functional.cross_entropy,
        lr=0.0,
        cbs=MetricsCallback(accuracy, count=count),
    )
    learn.fit(1)
    learn.get_preds("train")
    assert learn.metrics.get("infer", {}) == {}
    assert (count.n, count.n_resets) == (23, 1)


def test_batches_without_a_target_are_not_measured() -> None:
    count = Count()
    learn = still([torch.randn(4, 3)], cbs=MetricsCallback(accuracy, count), loss_f=lambda preds: preds.sum())
    learn.fit(1)
    assert list(learn.metrics["train"]) == ["loss"]
    assert count.n == 0


def test_batches_without_predictions_are_not_measured() -> None:
    class SkipOdd(Callback):
        def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
            if learn.i % 2:
                raise CancelStepException
            action()

    count = Count()
    batches = [(torch.randn(4, 3), torch.randint(0, 3, (4,))) for _ in range(4)]
    still(batches, cbs=[MetricsCallback(accuracy, n_hits, count), SkipOdd()]).fit(1)
    assert count.n == 8


def test_a_torchmetrics_object_that_saw_nothing_is_left_out_without_a_warning() -> None:
    metric = torchmetrics.MeanSquaredError()
    learn = still([torch.randn(4, 3)], cbs=MetricsCallback(metric), loss_f=lambda preds: preds.sum())
    learn.fit(1)
    assert list(learn.metrics["train"]) == ["loss"]


def test_without_metrics_there_is_the_loss(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=MetricsCallback())
    learn.fit(1)
    assert list(learn.metrics["valid"]) == ["loss"]


def test_logged_values_stand_beside_metrics(make_learner: MakeLearner) -> None:
    class Log(Callback):
        def after_batch(self, learn: Learner) -> None:
            learn.log(two=2.0)

    learn = make_learner(cbs=[Log(), MetricsCallback(accuracy)])
    learn.fit(1)
    assert list(learn.metrics["valid"]) == ["loss", "two", "accuracy"]


def test_a_callback_added_in_the_middle_of_a_pass_measures_from_the_next_pass_on(make_learner: MakeLearner) -> None:
    class Add(Callback):
        def after_batch(self, learn: Learner) -> None:
            if learn.training and learn.i == 1:
                learn.add_cb(MetricsCallback(accuracy))

    learn = make_learner(cbs=Add())
    learn.fit(1)
    assert list(learn.metrics["train"]) == ["loss"]
    assert list(learn.metrics["valid"]) == ["loss", "accuracy"]


def test_weights_are_trained_as_without_metrics(make_learner: MakeLearner) -> None:
    def doubling(preds: Tensor, target: Tensor) -> Tensor:
        assert not preds.requires_grad
        assert not torch.is_grad_enabled()
        return preds.sum()

    weights = []
    for cbs in (None, MetricsCallback(accuracy, doubling, torchmetrics.Accuracy("multiclass", num_classes=3))):
        learn = make_learner(cbs=cbs)
        torch.manual_seed(0)
        learn.fit(2)
        weights.append([p.detach() for p in learn.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_no_synchronisation_before_the_end_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(torch.randn(4, 3), torch.randint(0, 3, (4,))) for _ in range(200)]
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        real = getattr(Tensor, name)

        def spy(self: Tensor, *args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
            reads.append((_name, learn.i, learn.is_in_batch))
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, spy)
    learn = still(batches, cbs=MetricsCallback(accuracy, share_of_ones))
    learn.fit(1)
    assert reads
    assert {(i, is_in_batch) for _, i, is_in_batch in reads} == {(199, False)}


# -- devices -----------------------------------------------------------------------------------------------------


def test_objects_go_to_the_device_of_the_predictions() -> None:
    class Movable(Count):
        device = torch.device("cpu")

        def to(self, device: torch.device) -> "Movable":
            self.device = device
            return self

    class OnMeta(Callback):
        def after_predict(self, learn: Learner) -> None:
            learn.preds = learn.preds.to("meta")

        def after_loss(self, learn: Learner) -> None:
            learn.loss = learn.model.zero * 0

    metric = Movable()
    learn = still([(torch.randn(4, 3), torch.zeros(4, 3))], cbs=[MetricsCallback(metric), OnMeta()])
    learn.loss_f = lambda preds, target: preds.sum()
    learn.fit(1)
    assert metric.device == torch.device("meta")
    assert learn.metrics["train"]["Movable"] == 4.0


@pytest.mark.parametrize(
    "metric",
    [torchmetrics.classification.MulticlassAccuracy(num_classes=3), torcheval.metrics.MulticlassAccuracy()],
    ids=["torchmetrics", "torcheval"],
)
def test_library_objects_move_by_the_call_we_make(metric: Any) -> None:
    cb = module._Pass({"metric": metric}, outer=None)
    metric.update = lambda preds, target: None
    cb.add(torch.zeros(4, 3, device="meta"), torch.zeros(4, device="meta"), 4)
    assert metric.device == torch.device("meta")


# -- names, and what is refused --------------------------------------------------------------------------------------


def names(*metrics: Any, **named: Any) -> list[str]:
    return list(MetricsCallback(*metrics, **named).metrics)


def test_names() -> None:
    def tm() -> Any:
        return torchmetrics.classification.MulticlassAccuracy(num_classes=3)

    assert names(accuracy, top_k_accuracy(2), nn.L1Loss(), own=accuracy) == [
        "accuracy",
        "top_2_accuracy",
        "L1Loss",
        "own",
    ]
    assert names(tm(), tm(), tm(), torcheval.metrics.MulticlassAccuracy()) == [
        "MulticlassAccuracy",
        "MulticlassAccuracy_2",
        "MulticlassAccuracy_3",
        "MulticlassAccuracy_4",
    ]


def test_two_objects_of_one_class_do_not_overwrite_each_other(ragged: list[tuple[Tensor, Tensor]]) -> None:
    def tm(average: str) -> Any:
        return torchmetrics.classification.MulticlassAccuracy(num_classes=3, average=average)

    learn = still(ragged, cbs=MetricsCallback(tm("micro"), tm("macro")))
    learn.fit(1)
    x, y = whole(ragged)
    found = learn.metrics["train"]
    micro, macro = sklearn.metrics.accuracy_score, sklearn.metrics.balanced_accuracy_score
    assert found["MulticlassAccuracy"] == pytest.approx(micro(y, x.argmax(1)), abs=1e-6)
    assert found["MulticlassAccuracy_2"] == pytest.approx(macro(y, x.argmax(1)), abs=1e-6)


same = Count()


@pytest.mark.parametrize(
    ("metrics", "named", "error", "message"),
    [
        ((accuracy, accuracy), {}, ValueError, "metric `accuracy` must have a name of its own, got it twice"),
        ((accuracy,), {"accuracy": n_hits}, ValueError, "metric `accuracy` must have a name of its own"),
        ((Count(),), {"Count": n_hits}, ValueError, "metric `Count` must have a name of its own"),
        ((same, same), {}, ValueError, "metric `Count` must be an object of its own"),
        ((), {"a": same, "b": same}, ValueError, "metric `a` must be an object of its own"),
        ((), {"loss": accuracy}, ValueError, "another name than 'loss'"),
        ((lambda preds, target: 0.0,), {}, ValueError, "a metric must have a name, got .*lambda.*; pass it as"),
        ((partial(accuracy, target=1),), {}, ValueError, "a metric must have a name, got functools.partial"),
        ((Count,), {}, TypeError, r"metric `Count` must be a function .*; pass Count\(\)"),
        (([accuracy],), {}, TypeError, "metric `list` must be a function .*; pass metrics one by one"),
        ((None,), {}, TypeError, "metric `NoneType` must be a function"),
        ((), {"acc": "accuracy"}, TypeError, "metric `acc` must be a function"),
    ],
)
def test_refused_when_made(
    metrics: tuple[Any, ...], named: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MetricsCallback(*metrics, **named)


def test_two_callbacks_that_claim_one_name_are_refused_before_the_fit(make_learner: MakeLearner) -> None:
    learn = make_learner(cbs=[MetricsCallback(accuracy), MetricsCallback(accuracy)])
    with pytest.raises(ValueError, match="metric `accuracy` must have a name of its own, got it twice"):
        learn.fit(1)
    assert learn.n_samples == 0


def test_a_name_that_is_logged_as_well(make_learner: MakeLearner) -> None:
    class Log(Callback):
        def after_batch(self, learn: Learner) -> None:
            learn.log(accuracy=1.0)

    with pytest.raises(ValueError, match="metric `accuracy` must have a name of its own, got it twice"):
        make_learner(cbs=[MetricsCallback(accuracy), Log()]).fit(1)


@pytest.mark.parametrize("is_mean", [True, False])
@pytest.mark.parametrize(
    "result", [lambda p, t: (p.argmax(1) == t).float(), lambda p, t: None, lambda p, t: {"a": 1.0}, lambda p, t: "0.5"]
)
def test_a_result_that_is_no_scalar_names_the_metric_at_the_first_batch(
    make_learner: MakeLearner, is_mean: bool, result: Callable[..., Any]
) -> None:
    learn = make_learner(cbs=MetricsCallback(hits=Calls(result, is_mean)))
    with pytest.raises(ValueError, match="`hits` must be a scalar, got") as caught:
        learn.fit(1)
    assert learn.n_samples == 0
    assert "in MetricsCallback.after_batch, epoch 0, loader 'train', batch 0" in caught.value.__notes__[0]


def test_an_object_that_gives_no_scalar_is_named(make_learner: MakeLearner) -> None:
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="none")
    learn = make_learner(cbs=MetricsCallback(by_class=metric))
    with pytest.raises(ValueError, match=r"`by_class` must be a scalar, got Tensor\(3,\)"):
        learn.fit(1)
