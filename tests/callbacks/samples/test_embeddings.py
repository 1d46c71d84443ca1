"""What layers gave, as vectors: compared with means and pools by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from callbacks import EmbeddingsMetricsCollector
from learner import LearnerError, Predictor, PredictorOutput

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
