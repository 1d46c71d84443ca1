"""What collectors say of samples, compared with scikit-learn, SciPy and arithmetic; and what is no column."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import log_loss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from callbacks import (
    ClassificationMetricsCollector,
    EmbeddingsMetricsCollector,
    FunctionalMetricsCollector,
    MetricsCollector,
    RegressionMetricsCollector,
)
from callbacks.samples.collectors import columns_of, target_of
from learner import LearnerError, Predictor, PredictorOutput
from learner.records.schema import CategoricalLabel

CLASSIFICATION = ["label", "predicted", "loss", "accuracy", "confidence", "true_probability", "margin", "entropy"]


def collected(collector, output, label, hidden=None):
    columns = collector.collect((None, label), PredictorOutput(output, hidden or {}))
    return {name: column.numpy() for name, column in columns.items()}


def expected_of(logits, label):
    """Compute the columns of a classifier sample by sample, in float64."""
    logits, label = logits.double().numpy(), label.long().numpy()
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exps / exps.sum(1, keepdims=True)
    rows = range(len(label))
    classes = range(logits.shape[1])
    predicted = logits.argmax(1)
    return {
        "label": label,
        "predicted": predicted,
        "loss": [log_loss(label[i : i + 1], probabilities[i : i + 1], labels=classes) for i in rows],
        "accuracy": predicted == label,
        "confidence": probabilities.max(1),
        "true_probability": [probabilities[i, label[i]] for i in rows],
        "margin": [logits[i, label[i]] - max(logits[i, j] for j in classes if j != label[i]) for i in rows],
        "entropy": entropy(probabilities, axis=1),
    }


def assert_equal_columns(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], np.asarray(column, float), atol=tolerance, err_msg=name)


# -- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_of_logits_for_each_class(n_classes, dtype):
    logits, label = 3 * torch.randn(50, n_classes), torch.randint(0, n_classes, (50,)).to(dtype)
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert list(found) == CLASSIFICATION
    assert_equal_columns(found, expected_of(logits, label))


@pytest.mark.parametrize("logit_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("label_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.float16])
def test_one_logit_is_the_log_odds_of_the_second_class(logit_shape, label_shape, dtype):
    one, label = 3 * torch.randn(50), torch.randint(0, 2, (50,))
    found = collected(ClassificationMetricsCollector(), one.reshape(logit_shape), label.to(dtype).reshape(label_shape))
    assert_equal_columns(found, expected_of(torch.stack([torch.zeros(50), one], 1), label))
    by_torch = binary_cross_entropy_with_logits(one, label.float(), reduction="none")
    np.testing.assert_allclose(found["loss"], by_torch, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_whole(dtype):
    logits, label = (5 * torch.randn(50, 5)).to(dtype), torch.randint(0, 5, (50,))
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert found["loss"].dtype == np.float32
    assert_equal_columns(found, expected_of(logits, label), 1e-5)


def test_double_precision_is_kept():
    logits, label = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert found["loss"].dtype == np.float64
    assert_equal_columns(found, expected_of(logits, label), 1e-14)


def test_certain_and_impossible_classes():
    logits = torch.tensor([[1000.0, 0.0, -torch.inf], [1000.0, 0.0, -torch.inf]])
    found = collected(ClassificationMetricsCollector(), logits, torch.tensor([0, 1]))
    assert found["loss"].tolist() == [0, 1000]
    assert found["entropy"].tolist() == [0, 0]
    assert found["margin"].tolist() == [1000, -1000]


@pytest.mark.parametrize("make", [lambda x: SimpleNamespace(logits=x), lambda x: {"logits": x, "loss": None}])
@pytest.mark.parametrize("key", ["labels", "label", "y", "target"])
def test_of_outputs_and_batches_with_names(make, key):
    logits, label = torch.randn(8, 3), torch.randint(0, 3, (8,))
    batch = {"input_ids": torch.zeros(8, 4), key: label}
    columns = ClassificationMetricsCollector().collect(batch, PredictorOutput(make(logits), {}))
    np.testing.assert_allclose(columns["loss"], cross_entropy(logits, label, reduction="none"), atol=1e-6)


def test_a_loss_of_ones_own_gets_both_as_they_come():
    logits, label = torch.randn(6, 1), torch.randint(0, 2, (6, 1)).float()
    loss = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(3.0))
    found = collected(ClassificationMetricsCollector(loss_fn=loss), logits, label)
    np.testing.assert_array_equal(found["loss"], loss(logits, label)[:, 0])


def test_a_loss_that_is_a_mean():
    collector = ClassificationMetricsCollector(loss_fn=cross_entropy)
    with pytest.raises(LearnerError, match=r"a loss for each of the 4 samples, got Tensor\(\).*reduction='none'"):
        collected(collector, torch.randn(4, 3), torch.zeros(4).long())


@pytest.mark.parametrize("classes", [["cat", "dog"], ("cat", "dog"), {1: "dog", 0: "cat"}])
def test_class_names_are_those_of_label_and_predicted(classes):
    collector = ClassificationMetricsCollector(classes=classes)
    assert {name: schema.classes for name, schema in collector.column_schemas.items()} == {
        "label": ("cat", "dog"),
        "predicted": ("cat", "dog"),
    }
    assert ClassificationMetricsCollector().column_schemas == {}


def test_class_ids_are_not_averaged():
    averaged = ClassificationMetricsCollector().averaged
    assert [name for name in CLASSIFICATION if averaged(name)] == CLASSIFICATION[2:]


@pytest.mark.parametrize(("wrong", "told"), [(3, "got 3"), (-1, "got -1"), (-100, "got -100")])
def test_a_label_that_is_no_class(wrong, told):
    label = torch.tensor([0, 2, wrong, 1])
    with pytest.raises(LearnerError, match=f"labels must be class ids from 0 to 2, {told}; leave samples without"):
        collected(ClassificationMetricsCollector(), torch.randn(4, 3), label)


@pytest.mark.parametrize("wrong", [0.9, torch.nan, 2.0])
def test_a_soft_label_is_no_class(wrong):
    with pytest.raises(LearnerError, match="labels must be class ids from 0 to 1"):
        collected(ClassificationMetricsCollector(), torch.randn(2), torch.tensor([0.0, wrong]))


def test_on_a_device_labels_are_looked_at_when_they_are_read(monkeypatch):
    logits, label = torch.randn(4, 3), torch.tensor([0, -100, 3, 2])
    good = expected_of(logits[[0, 3]], label[[0, 3]])
    collector = ClassificationMetricsCollector()
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    found = collected(collector, logits, label)
    assert_equal_columns({name: column[[0, 3]] for name, column in found.items()}, good)
    assert np.isnan([found[name][1:3] for name in CLASSIFICATION[4:]]).all()
    with pytest.raises(LearnerError, match="from 0 to 2, got -100"):
        collector.check(found)
    collector.check({name: column[[0, 3]] for name, column in found.items()})


def test_a_subclass_may_have_columns_of_its_own():
    class Wrong(ClassificationMetricsCollector):
        def compute_metrics(self, batch, predictor_output):
            return {"wrong": 1 - super().compute_metrics(batch, predictor_output)["accuracy"]}

    collector = Wrong()
    found = collected(collector, torch.eye(3), torch.tensor([0, 1, 0]))
    assert found["wrong"].tolist() == [0, 0, 1]
    collector.check(found)


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        (torch.zeros(4, 3), torch.zeros(3).long()),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 3).long()),
        (torch.zeros(4, 3, 2), torch.zeros(4, 2).long()),
        (torch.zeros(4, 3, dtype=torch.complex64), torch.zeros(4).long()),
        (torch.zeros(4), torch.zeros(4, 2)),
        (torch.zeros(()), torch.zeros(4)),
        ([1.0, 2.0], torch.zeros(2).long()),
        (torch.zeros(2, 3), ["cat", "dog"]),
    ],
)
def test_shapes_that_do_not_belong_together(logits, label):
    with pytest.raises(LearnerError, match=r"must be given logits \(N, C\) or \(N,\) and labels \(N,\), got"):
        collected(ClassificationMetricsCollector(), logits, label)


# -- regression --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preds_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("target_shape", [(-1,), (-1, 1)])
def test_one_number_per_sample(preds_shape, target_shape):
    preds, target = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([0.0, 1.0, 4.0])
    found = collected(RegressionMetricsCollector(), preds.reshape(preds_shape), target.reshape(target_shape))
    assert {name: column.tolist() for name, column in found.items()} == {
        "target": [0, 1, 4],
        "predicted": [1, -2, 4],
        "residual": [1, -3, 0],
        "loss": [1, 9, 0],
        "absolute_error": [1, 3, 0],
    }


def test_several_numbers_per_sample():
    preds, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, -4.0]])
    found = collected(RegressionMetricsCollector(), preds, target)
    assert found["residual"].tolist() == [[1, -3], [0, 4]]
    assert (found["loss"].tolist(), found["absolute_error"].tolist()) == ([5, 8], [2, 2])


@pytest.mark.parametrize(
    ("preds_dtype", "target_dtype", "dtype"),
    [
        (torch.float16, torch.float16, np.float32),
        (torch.bfloat16, torch.float32, np.float32),
        (torch.float32, torch.int64, np.float32),
        (torch.float32, torch.float64, np.float64),
    ],
)
def test_residuals_are_as_precise_as_what_they_are_of(preds_dtype, target_dtype, dtype):
    # In float16 the square is infinite.
    preds, target = torch.tensor([1000.0]).to(preds_dtype), torch.tensor([0]).to(target_dtype)
    columns = RegressionMetricsCollector().collect((None, target), PredictorOutput(preds, {}))
    assert (columns["loss"].numpy().dtype, columns["loss"].item()) == (dtype, 1e6)


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4), torch.zeros(4, 4)),
        (torch.zeros(4), torch.zeros(3)),
        (torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)),
        (torch.zeros(()), torch.zeros(())),
        (torch.zeros(2), [1.0, 2.0]),
    ],
)
def test_predictions_and_targets_that_differ(preds, target):
    with pytest.raises(LearnerError, match="RegressionMetricsCollector must be given predictions"):
        collected(RegressionMetricsCollector(), preds, target)


# -- where labels are --------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["x", "y"])
Unnamed = namedtuple("Unnamed", ["first", "second"])


@dataclass
class Graph:
    nodes: object
    target: object


@pytest.mark.parametrize(
    "batch",
    [(0, "found"), [0, "found"], (0, 1, "found"), {"a": 0, "labels": "found"}, Pair(0, "found"), Unnamed(0, "found")],
)
def test_labels_are_found(batch):
    assert target_of(batch, PredictorOutput(None, {}), "c") == "found"
    assert target_of(Graph(0, "found"), PredictorOutput(None, {}), "c") == "found"


def test_what_a_learner_took_for_the_target_goes_first():
    assert target_of((0, 1), PredictorOutput(None, {}, {"target": "known"}), "c") == "known"
    assert target_of((0, 1), PredictorOutput(None, {}, {"target": None}), "c") == 1


@pytest.mark.parametrize("batch", [torch.zeros(3), [torch.zeros(3)], {"x": 0, "z": 1}, None, "text"])
def test_labels_that_are_nowhere(batch):
    with pytest.raises(LearnerError, match="c must find labels in a batch, as the last element or as one of targets"):
        target_of(batch, PredictorOutput(None, {}), "c")


def test_a_function_makes_the_pair_first():
    def paired(batch, output):
        return (batch["pixels"], batch["species"]), output

    batch = {"pixels": torch.zeros(2, 4), "species": torch.tensor([1, 0])}
    collector = ClassificationMetricsCollector(preprocess_fn=paired)
    assert collector.collect(batch, PredictorOutput(torch.eye(2), {}))["accuracy"].tolist() == [0, 0]


@pytest.mark.parametrize("made", [None, torch.zeros(2, 3), (1, 2, 3), [1, 2]])
def test_a_function_that_makes_no_pair(made):
    collector = ClassificationMetricsCollector(preprocess_fn=lambda batch, output: made)
    with pytest.raises(LearnerError, match=r"`preprocess_fn` must return \(batch, predictor_output\), got"):
        collector.collect(None, PredictorOutput(None, {}))


# -- embeddings --------------------------------------------------------------------------------------------------------

OUTPUTS = {
    "vector": torch.randn(3, 6),
    "sequence": torch.randn(3, 9, 6),
    "image": torch.randn(3, 6, 8, 12),
    "volume": torch.randn(3, 6, 4, 8, 12),
}


def embedded(output, strategy, **kwargs):
    collector = EmbeddingsMetricsCollector(["layer"], strategy, **kwargs)
    return collector.collect(None, PredictorOutput(None, {"layer": output}))["embeddings_layer"]


def pooled_by_hand(output, k):
    """Average blocks of an output whose axes are multiples of k."""
    spatial = output.mT if output.ndim == 3 else output
    for axis in range(2, spatial.ndim):
        spatial = spatial.unflatten(axis, (k, -1)).mean(axis + 1)
    return spatial.flatten(1)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_mean_is_over_all_but_features(kind):
    output = OUTPUTS[kind]
    expected = {
        "vector": lambda: output,
        "sequence": lambda: output.numpy().mean(1),
        "image": lambda: output.numpy().mean((2, 3)),
        "volume": lambda: output.numpy().mean((2, 3, 4)),
    }[kind]()
    np.testing.assert_allclose(embedded(output, "mean"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_flattened_in_the_order_of_memory(kind):
    output = OUTPUTS[kind]
    assert embedded(output, "flatten").tolist() == output.numpy().reshape(3, -1).tolist()
    assert embedded(output[:0], "mean").shape == (0, 6)


def test_a_number_per_sample_is_a_vector_of_one():
    assert embedded(torch.tensor([1.0, 2.0]), "flatten").tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("kind", "k"), [("sequence", 1), ("sequence", 3), ("image", 1), ("image", 2), ("image", 4), ("volume", 2)]
)
def test_averages_in_a_grid(kind, k):
    output = OUTPUTS[kind]
    np.testing.assert_allclose(embedded(output, f"avg_pool_{k}"), pooled_by_hand(output, k), atol=1e-6)


def test_a_grid_of_a_vector_is_the_vector():
    assert torch.equal(embedded(OUTPUTS["vector"], "avg_pool_3"), OUTPUTS["vector"])


@pytest.mark.parametrize("strategy", ["mean", "flatten", "avg_pool_2"])
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_of_half_precision(strategy, kind, dtype):
    found = embedded(OUTPUTS[kind].to(dtype), strategy)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, embedded(OUTPUTS[kind], strategy), atol=0.03, rtol=0.03)


def test_half_the_room():
    found = embedded(OUTPUTS["image"], "mean", dtype=torch.float16)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, OUTPUTS["image"].mean((2, 3)).half())


def test_a_function_takes_what_a_layer_gives_apart():
    output = (OUTPUTS["sequence"], None)
    assert torch.equal(embedded(output, lambda pair: pair[0][:, 0]), OUTPUTS["sequence"][:, 0])


def test_each_layer_has_its_strategy_and_the_mean_is_the_default():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    collector = EmbeddingsMetricsCollector([1, "0", "3"], {1: "flatten", "0": "avg_pool_2"})
    output = Predictor(model, layers=collector.layers)(torch.randn(5, 1, 8, 8))
    found = {name: tuple(column.shape) for name, column in collector.collect(None, output).items()}
    assert found == {"embeddings_1": (5, 72), "embeddings_0": (5, 8), "embeddings_3": (5, 4)}


def test_a_glob_is_all_layers_of_that_name_but_those_with_a_name_of_their_own():
    hidden = {f"blocks.{i}": torch.randn(3, 4, 5) for i in range(3)} | {
        "blocks.0.norm": torch.zeros(3, 4, 5),
        "blocks.0:in": torch.zeros(3, 4, 5),
        "head": torch.zeros(3, 2),
    }
    for layers in (["blocks.*", "blocks.1"], ["blocks.1", "blocks.*"]):
        collector = EmbeddingsMetricsCollector(layers, {"blocks.1": "flatten"})
        found = collector.collect(None, PredictorOutput(None, hidden))
        assert {name: column.shape[1] for name, column in found.items()} == {
            "embeddings_blocks.0": 5,
            "embeddings_blocks.1": 20,
            "embeddings_blocks.2": 5,
        }


def test_a_glob_may_mean_parts():
    hidden = {"lstm.0:0": torch.ones(3, 4), "lstm.1:0": torch.ones(3, 4), "lstm.1:1": torch.ones(3, 4)}
    found = EmbeddingsMetricsCollector(["lstm.*:0"]).collect(None, PredictorOutput(None, hidden))
    assert list(found) == ["embeddings_lstm.0:0", "embeddings_lstm.1:0"]


def test_a_position_and_a_name_that_read_the_same():
    with pytest.raises(LearnerError, match="column 'embeddings_2' must be of one layer, got two"):
        EmbeddingsMetricsCollector([2, "2"]).collect(
            None, PredictorOutput(None, {2: torch.ones(3, 4), "2": torch.zeros(3, 4)})
        )


@pytest.mark.parametrize("wanted", ["body", 3, "body.*"])
def test_a_layer_that_the_predictor_was_not_told_of(wanted):
    collector = EmbeddingsMetricsCollector(["head", wanted])
    with pytest.raises(LearnerError, match=r"`hidden_layers` must hold .*, got \['head'\]; make the Predictor with"):
        collector.collect(None, PredictorOutput(None, {"head": torch.zeros(3, 4)}))


@pytest.mark.parametrize("strategy", ["mean", "flatten", "avg_pool_2", lambda output: torch.zeros(3)])
@pytest.mark.parametrize("output", [(torch.zeros(3, 4), None), torch.tensor(1.0), None])
def test_a_strategy_that_does_not_fit(strategy, output):
    with pytest.raises(LearnerError, match=r"`reshape_strategy` must make \(N, D\) of what layer 'layer' gives, got"):
        embedded(output, strategy)


@pytest.mark.parametrize("layers", ["head", 3, [], None, [nn.Linear(2, 2)], nn.Linear(2, 2), iter(())])
def test_what_are_no_layers(layers):
    with pytest.raises(TypeError, match="`layers` must be a sequence of names, globs or positions, got"):
        EmbeddingsMetricsCollector(layers)


def test_layers_may_come_one_by_one():
    assert EmbeddingsMetricsCollector(str(i) for i in range(2)).layers == ("0", "1")


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("meen", "must be one of mean, flatten.*got 'meen', did you mean 'mean'"),
        ("avg_pool_0", "got 'avg_pool_0'"),
        ("avg_pool_x", "got 'avg_pool_x'"),
        (3, "or a function, got 3"),
        (None, "or a function, got None"),
        ({"tail": "mean"}, r"`reshape_strategy` must be by layers of \('head',\), got 'tail'"),
        ({"head": "meen"}, "got 'meen'"),
    ],
)
def test_what_is_no_strategy(strategy, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingsMetricsCollector(["head"], strategy)


@pytest.mark.parametrize("dtype", [torch.int8, "float16", np.float16])
def test_what_is_no_dtype_of_vectors(dtype):
    with pytest.raises(TypeError, match="`dtype` must be a torch dtype of floats, got"):
        EmbeddingsMetricsCollector(["head"], dtype=dtype)


def test_vectors_are_not_averaged():
    assert not EmbeddingsMetricsCollector(["head"]).compute_aggregates


# -- functions ---------------------------------------------------------------------------------------------------------


def test_a_function_is_a_collector_of_its_name():
    def brightness(batch, predictor_output):
        return {"brightness": batch.mean(1), "kind": [predictor_output.forward] * len(batch)}

    schemas = {"kind": CategoricalLabel("kind", ["a", "b"])}
    collector = FunctionalMetricsCollector(brightness, schemas)
    assert isinstance(collector, MetricsCollector)
    assert (collector.name, collector.column_schemas, collector.layers) == ("brightness", schemas, ())
    found = collector.collect(torch.ones(2, 3), PredictorOutput("a", {}))
    assert (found["brightness"].tolist(), found["kind"]) == ([1, 1], ["a", "a"])
    assert collector.averaged("brightness")
    assert not collector.averaged("kind")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionalMetricsCollector(3), "`collection_fn` must be a function"),
        (lambda: FunctionalMetricsCollector(len, {"a": ["x"]}), r"`column_schemas\['a'\]` must be a CategoricalLabel"),
        (lambda: FunctionalMetricsCollector(len, preprocess_fn=3), "`preprocess_fn` must be a function"),
        (lambda: ClassificationMetricsCollector(loss_fn=3), r"`loss_fn` must be a function of \(logits, labels\)"),
        (lambda: ClassificationMetricsCollector("cat"), "`classes` must be a list of names"),
        (MetricsCollector, "abstract"),
    ],
)
def test_what_no_collector_can_be_made_of(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# -- columns -----------------------------------------------------------------------------------------------------------

NUMBERS = [1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.tensor(NUMBERS), np.float32),
        (torch.tensor(NUMBERS).double(), np.float64),
        (torch.tensor(NUMBERS).half(), np.float16),
        (torch.tensor(NUMBERS).bfloat16(), np.float32),
        (torch.tensor(NUMBERS).to(torch.float8_e4m3fn), np.float32),
        (torch.tensor(NUMBERS).to(torch.uint16), np.uint16),
        (torch.tensor(NUMBERS).int(), np.int32),
        (np.array(NUMBERS, np.float16), np.float16),
        (NUMBERS, np.float64),
        ((1, 0, 3), np.int64),
        (range(1, 4), np.int64),
        ([torch.tensor(value) for value in NUMBERS], np.float32),
        ([torch.tensor(value, dtype=torch.bfloat16) for value in NUMBERS], np.float32),
        ([torch.tensor(1.0), 0.0, 3], np.float64),
        ([np.float32(value) for value in NUMBERS], np.float32),
    ],
)
def test_numbers_keep_their_type_where_numpy_has_it(values, dtype):
    found = columns_of("c", {"x": values}, 3)["x"]
    assert (type(found), found.dtype) == (np.ndarray, dtype)
    assert found[0] == 1
    assert found.shape == (3,)


@pytest.mark.parametrize("values", [[True, False], np.array([True, False]), torch.tensor([True, False])])
def test_bools(values):
    found = columns_of("c", {"x": values}, 2)["x"]
    assert (found.dtype, found.tolist()) == (bool, [True, False])


@pytest.mark.parametrize(
    "values", [["a", "long"], ("a", "long"), np.array(["a", "long"]), np.array(["a", "long"], "O")]
)
def test_strings(values):
    assert columns_of("c", {"x": values}, 2)["x"].tolist() == ["a", "long"]


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(2, 3),
        np.ones((2, 3)),
        [[1, 1, 1], [1, 1, 1]],
        [torch.ones(3), torch.ones(3)],
        [np.ones(3), torch.ones(3)],
        one_hot(torch.tensor([0, 0]), 3).bool() | True,
    ],
)
def test_rows_of_numbers(values):
    assert columns_of("c", {"x": values}, 2)["x"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_tensors_of_other_devices_stay_there():
    found = columns_of("c", {"x": torch.ones(3, device="meta"), "y": torch.ones(3, 2, device="meta").bfloat16()}, 3)
    assert [(x.device.type, x.dtype) for x in found.values()] == [("meta", torch.float32)] * 2


@pytest.mark.parametrize("values", [torch.ones(2), np.ones(2), [1.0, 2.0], ["a", "b"], torch.ones(4), []])
def test_too_few_rows_or_too_many(values):
    with pytest.raises(LearnerError, match=r"column 'x' of c must have a row for each of the 3 samples, got \d"):
        columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (torch.tensor(1.0), r"\(\)"),
        (1.5, r"\(\)"),
        (torch.ones(3, 2, 2), r"\(3, 2, 2\)"),
        (torch.ones(3, 0), r"\(3, 0\)"),
        ([[], [], []], r"\(3, 0\)"),
    ],
)
def test_shapes_that_are_no_column(values, shape):
    message = rf"column 'x' of c must have a value \(N,\) or a row \(N, D\) for each sample, got shape {shape}"
    with pytest.raises(LearnerError, match=message):
        columns_of("c", {"x": values}, 3)


def test_a_tensor_in_the_graph_would_keep_it():
    weight = torch.ones(3, requires_grad=True)
    for values in (weight * 2, list(weight * 2)):
        with pytest.raises(LearnerError, match=r"column 'x' of c must be free of the graph.*`.detach\(\)` it"):
            columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize(
    "values",
    [
        None,
        "text",
        [[1], [1, 2], [1]],
        [torch.ones(1), torch.ones(2), torch.ones(1)],
        [1, None, 2],
        [1, "a", 2.0],
        [{"a": 1}] * 3,
        {"a": 1},
        {1, 2, 3},
        np.array(["a", None, "b"], object),
        [["a", "b"]] * 3,
        torch.ones(3, dtype=torch.complex64),
        np.ones(3, complex),
        torch.ones(3).to_sparse(),
        np.array(["2020-01-01"] * 3, "M8[D]"),
    ],
)
def test_what_is_no_column(values):
    with pytest.raises(LearnerError, match="column 'x' of c must hold numbers, bools or strings, as many for each"):
        columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize("name", ["example_id", "epoch", "step", "split"])
def test_names_that_are_taken(name):
    with pytest.raises(LearnerError, match=f"column '{name}' of c must have another name"):
        columns_of("c", {name: torch.ones(3)}, 3)


@pytest.mark.parametrize("name", [1, None, "", ("a", "b")])
def test_names_that_are_none(name):
    with pytest.raises(LearnerError, match="columns of c must be named by strings, got"):
        columns_of("c", {name: torch.ones(3)}, 3)


@pytest.mark.parametrize("columns", [None, torch.ones(3), [("x", torch.ones(3))]])
def test_what_is_no_dict_of_columns(columns):
    with pytest.raises(LearnerError, match="c must return a dict of columns, got"):
        columns_of("c", columns, 3)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c", "d"]])
def test_each_logit_has_a_class_name_or_none_has(classes):
    collector = ClassificationMetricsCollector(classes)
    with pytest.raises(LearnerError, match=f"`classes` must be a name for each of the 3 logits, got {len(classes)}"):
        collector.collect((None, torch.tensor([0, 1])), PredictorOutput(torch.zeros(2, 3), {}))
