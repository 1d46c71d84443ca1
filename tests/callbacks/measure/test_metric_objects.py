"""What metric objects have gathered, as plain data and back: of both libraries, and of a person's own."""

import warnings

import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from callbacks.measure.metric_objects import is_object, put_back, state_of
from learner.checkpoint.plain import plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it still uses torch.jit.script
    import torcheval.metrics


class Fields:
    """An object that keeps what it has seen in attributes of many kinds, and has functions and classes besides."""

    def __init__(self):
        self.f, self.kind, self.dtype = torch.argmax, float, torch.float64
        self.reset()

    def reset(self):
        self.n, self.hits, self.by_class, self.sums = 0, torch.zeros(()), {}, []
        self.__dict__.pop("last", None)

    def update(self, preds, target):
        self.n += len(target)
        self.hits = self.hits + (self.f(preds, dim=1) == target).sum()
        for label in target.tolist():
            self.by_class[label] = self.by_class.get(label, 0) + 1
        self.sums.append(preds.to(self.dtype).sum())
        self.last = preds[-1, 0].clone()  # made here

    def compute(self):
        by_class = sum(n**label for label, n in self.by_class.items())
        return self.kind(self.hits / self.n + torch.stack(self.sums).mean() + self.last + by_class)


class Kept(Fields):
    """The same with a state dict, and nothing that could be kept without it."""

    def reset(self):
        super().reset()
        self.odd = object()

    def state_dict(self):
        return {name: value for name, value in vars(self).items() if name not in ("f", "kind", "dtype", "odd")}

    def load_state_dict(self, state):
        vars(self).update(state)


class InModule(nn.Module):
    """The same as a module, whose state dict knows nothing of it, with a buffer and a part."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()), persistent=False)
        self.part = torchmetrics.MeanMetric()
        self.n = 0

    def reset(self):
        self.total = torch.zeros(())
        self.part.reset()
        self.n = 0

    def update(self, preds, target):
        self.total += preds.abs().sum()
        self.part.update(preds.mean(), weight=len(target))
        self.n += 1

    def compute(self):
        return self.total / self.n + self.part.compute()


OF_3 = {"num_classes": 3, "validate_args": False}
OBJECTS = {
    "attributes": Fields,
    "a state dict": Kept,
    "a module": InModule,
    "torchmetrics, numbers": lambda: MulticlassF1Score(average="macro", **OF_3),
    "torchmetrics, lists": lambda: MulticlassAUROC(**OF_3),
    "torchmetrics, a wrapper": lambda: torchmetrics.wrappers.Running(MulticlassAccuracy(**OF_3), window=2),
    "torchmetrics, a sum": lambda: MulticlassAccuracy(**OF_3) + 2 * MulticlassF1Score(**OF_3),
    "torcheval, numbers": torcheval.metrics.MulticlassAccuracy,
    "torcheval, lists": lambda: torcheval.metrics.MulticlassAUROC(num_classes=3),
}


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, generator=generator), torch.randint(3, (5,), generator=generator)) for _ in range(5)]


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_goes_on_where_another_was(kind):
    whole = OBJECTS[kind]()
    states = []
    for batch in batches():
        whole.update(*batch)
        states.append(plain(state_of(whole), copy=True))
    for i, state in enumerate(states):
        other = OBJECTS[kind]()
        other.update(*batches()[0])
        other.reset()
        for _ in range(2):  # it may be put back once more
            put_back(other, plain(state, copy=True))
        for batch in batches()[i + 1 :]:
            other.update(*batch)
        assert float(other.compute()) == float(whole.compute())
        assert is_object(other)


class Counts(InModule):
    """A module with a state dict of its own."""

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def test_a_module_with_a_state_dict_of_its_own_is_taken_at_its_word():
    counts, other = Counts(), Counts()
    counts.update(*batches()[0])
    assert state_of(counts) == {"state": {"n": 1}}
    put_back(other, state_of(counts))
    assert other.n == 1


@pytest.mark.parametrize("make", [Fields, InModule, lambda: MulticlassAccuracy(**OF_3)])
def test_no_file_sets_what_an_object_does_not_keep(make):
    metric = make()
    metric.update(*batches()[0])
    state = state_of(metric)
    kind, n_parts = type(metric), len(getattr(metric, "_modules", ()))
    state["parts"][""].update({"update": 1, "__class__": 2, "_modules": {}, "f": 3, "compute": 4, "own": 5})
    put_back(metric, state)
    assert (type(metric), metric.own, len(getattr(metric, "_modules", ()))) == (kind, 5, n_parts)
    for batch in batches():
        metric.update(*batch)
    assert metric.compute() > 0


@pytest.mark.parametrize(("thing", "expected"), [(Fields(), True), (MulticlassAccuracy(**OF_3), True), (len, False)])
def test_what_is_an_object(thing, expected):
    assert is_object(thing) is expected
