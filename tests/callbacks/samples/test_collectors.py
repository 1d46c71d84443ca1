"""What all collectors have in common: where they find labels, what a function makes first."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from callbacks import (
    ClassificationMetricsCollector,
    FunctionalMetricsCollector,
    MetricsCollector,
)
from callbacks.samples.collectors import target_of
from learner import LearnerError, PredictorOutput
from learner.records.schema import CategoricalLabel

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


def test_labels_that_a_person_makes_go_before_the_target_of_a_learner():
    output = PredictorOutput(torch.eye(2), {}, {"target": torch.tensor([0, 1])})
    made = lambda preprocess_fn: (
        ClassificationMetricsCollector(preprocess_fn=preprocess_fn)
        .collect((0, torch.tensor([0, 1])), output)["label"]
        .tolist()
    )
    assert made(lambda batch, output: ((batch[0], 1 - batch[1]), output)) == [1, 0]
    assert made(lambda batch, output: (batch, output)) == [0, 1]
    assert made(lambda batch, output: (batch[0], output)) == [0, 1]  # it holds no labels
