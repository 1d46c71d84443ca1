"""What goes into a model of a batch, what is the target, and the words for it."""

from collections import OrderedDict, namedtuple
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from callbacks import ClassificationMetricsCollector, CollectCallback, DeviceCallback
from learner import Learner, LearnerError, Predictor
from learner.data.batch import describe
from learner.data.feed import preds_of

X, X2, Y = torch.zeros(5, 2), torch.ones(5, 2), torch.arange(5)
Pair = namedtuple("Pair", "x y")


# -- in a Learner: split and feed ------------------------------------------------------------------------------------


class Takes(nn.Module):
    """Return what it was called with."""

    def __init__(self, n):
        super().__init__()
        self.n = n
        self.forward = [None, self.one, self.two, self.three][n]

    def one(self, a):
        return (a,)

    def two(self, a, b):
        return a, b

    def three(self, a, b, c=None):
        return a, b, c


def same(given, expected):
    if isinstance(expected, tuple):
        return len(given) == len(expected) and all(map(same, given, expected))
    return given is expected


@pytest.mark.parametrize(
    ("batch", "options", "has_target", "xb", "yb"),
    [
        ((X, Y), {}, True, X, Y),
        ([X, Y], {}, True, X, Y),
        (Pair(X, Y), {}, True, X, Y),
        ((X, X2, Y), {}, True, (X, X2), Y),
        (X, {}, True, X, None),
        ((X,), {}, True, X, None),
        ((X, X2), {}, False, (X, X2), None),
        ((X, X2, Y), {"n_inp": 1}, True, X, (X2, Y)),
        ((X, X2, Y), {"n_inp": 2}, True, (X, X2), Y),
        ((X, X2, Y), {"n_inp": 3}, True, (X, X2, Y), None),
        ((X, Y), {"n_inp": 2}, True, (X, Y), None),
        ((X, (X2, Y)), {}, True, X, (X2, Y)),
        ((X, None), {}, True, X, None),
    ],
)
def test_split(batch, options, has_target, xb, yb):
    got_x, got_y, size = Predictor(Takes(1 if has_target else 2), **options).split(batch, takes_target=not has_target)
    assert same(got_x, xb)
    assert same(got_y, yb)
    assert size == 5


def test_feed_passes_tuples_by_position():
    predictor = Predictor(Takes(2))
    assert same(predictor.feed(predictor.model, (X, X2)), (X, X2))


def test_a_batch_with_too_few_elements_is_refused():
    with pytest.raises(LearnerError, match=r"at least 3 elements.*got \(Tensor\(5, 2\) float32, Tensor\(5,\) int64\)"):
        Predictor(Takes(3), n_inp=3).split((X, Y))
    with pytest.raises(LearnerError, match="at least 1 element"):
        Predictor(Takes(1)).split(())


@pytest.mark.parametrize(("n", "xb"), [(2, X), (1, (X, X2)), (2, (X, X2, Y))])
def test_what_the_model_cannot_take_is_described_with_what_it_takes(n, xb):
    predictor = Predictor(Takes(n))
    takes = {1: r"\(a\)", 2: r"\(a, b\)"}[n]
    with pytest.raises(LearnerError, match=rf"(?s)Tensor\(5, 2\) float32.*forward takes {takes}.*n_inp"):
        predictor.feed(predictor.model, xb)


def test_it_is_the_model_that_is_called_whose_forward_counts():
    """`learn.model` may be replaced by one that takes something else."""
    predictor = Predictor(Takes(1))
    assert same(predictor.feed(Takes(2), (X, X2)), (X, X2))
    with pytest.raises(LearnerError, match=r"forward takes \(a, b\)"):
        predictor.feed(Takes(2), X)


def test_what_was_seen_to_fit_one_model_is_not_believed_of_another():
    predictor = Predictor(Takes(1))
    predictor.feed(predictor.model, X)
    with pytest.raises(LearnerError, match=r"forward takes \(a, b\)"):
        predictor.feed(Takes(2), X)
    predictor.feed(predictor.model, X)
    with pytest.raises(LearnerError, match=r"forward takes \(a, b\)"):
        predictor.feed(Takes(2), X)


def test_what_was_decided_without_need_of_a_target_is_not_believed_where_there_is_one():
    batch = {"a": X, "this": Y, "that": Y}
    predictor = Predictor(Takes(1))
    assert same(predictor.split(batch, needs_target=False)[:2], (X, None))
    with pytest.raises(LearnerError, match="may be 'this' or 'that'"):
        predictor.split(batch)
    predictor = Predictor(Takes(3))
    batch = {"a": X, "b": X2, "c": Y, "y": Y}
    assert predictor.split(batch)[0].keys() == predictor.split(batch, takes_target=True)[0].keys() == {"a", "b", "c"}


def test_a_target_fn_settles_what_may_be_the_target():
    xb, yb, _ = Predictor(Takes(1), target_fn=lambda batch: batch["that"]).split({"a": X, "this": X2, "that": Y})
    assert same((xb, yb), (X, Y))


@pytest.mark.parametrize("told", [{}, {"preprocess_fn": lambda batch: batch["a"]}])
@pytest.mark.parametrize("how", [{"target_key": "y"}, {"target_fn": lambda batch: batch["y"]}])
def test_where_no_target_is_needed_none_has_to_be_there(how, told):
    predictor = Predictor(Takes(1), **how, **told)
    assert same(predictor.split({"a": X}, needs_target=False)[:2], (X, None))


@pytest.mark.parametrize(("batch", "yb"), [([X, Y], Y), ([X, X2, Y], Y), ([X], None), ((X,), None)])
def test_the_target_beside_a_preprocess_fn_is_the_last_element_of_several(batch, yb):
    assert same(Predictor(Takes(1), preprocess_fn=lambda batch: batch[0]).split(batch)[:2], (X, yb))


@pytest.mark.parametrize(
    ("batch", "yb"),
    [({"a": X, "y": Y}, Y), ({"a": X, "y": Y, "id": 1}, Y), ({"a": X, "y": Y, "label": Y}, None), ({"a": X}, None)],
)
def test_the_target_beside_a_preprocess_fn_is_the_one_field_that_is_called_so(batch, yb):
    assert same(Predictor(Takes(1), preprocess_fn=lambda batch: batch["a"]).split(batch)[:2], (X, yb))


@pytest.mark.parametrize("model", [None, 3, nn.Linear, lambda x: x])
def test_the_model_must_be_a_module(model):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got"):
        Predictor(model)


@pytest.mark.parametrize("n_inp", [0, -1, 1.5, "1"])
def test_n_inp_must_be_a_count(n_inp):
    with pytest.raises(ValueError, match="`n_inp` must be a whole number of at least 1, got"):
        Predictor(nn.Linear(1, 1), n_inp=n_inp)


# -- in words -----------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    x: Any
    y: Any


class Named(nn.Module):
    def forward(self, x, extra=None):
        return x


IN, OUT = "Tensor(5, 2) float32", "Tensor(5,) int64"


@pytest.mark.parametrize(
    ("model", "batch", "options", "takes", "inputs", "target", "samples"),
    [
        (Named(), {"x": X, "label": Y}, {}, "(x, extra=None)", [IN], OUT, 5),
        (
            Named(),
            {"label": Y, "extra": X2, "x": X},
            {},
            "(x, extra=None)",
            [f"extra: {IN}", f"x: {IN}"],
            OUT,
            5,
        ),
        (Takes(2), [X, X2, Y], {}, "(a, b)", [IN, IN], OUT, 5),
        (Takes(1), X, {}, "(a)", [IN], "none", 5),
        (nn.DataParallel(Named()), Batch(X, Y), {}, "(x, extra=None)", [IN], OUT, 5),
        (Takes(1), "a text", {"target_fn": len}, "(a)", ["'a text'"], "6", "unknown"),
        (Takes(1), {"q": X, "y": Y}, {"preprocess_fn": lambda batch: batch["q"] + 1}, "(a)", [IN], OUT, 5),
    ],
)
def test_explain_says_what_goes_where(model, batch, options, takes, inputs, target, samples):
    lines = Predictor(model, **options).explain(batch).split("\n")
    assert any(takes in line for line in lines)
    assert len([line for line in lines if line.startswith("goes in")]) == len(inputs)
    for text in inputs:
        assert any(line.startswith("goes in") and text in line for line in lines)
    assert f"target: {target}" in lines
    assert f"samples: {samples}" in lines
    assert not any("left out" in line for line in lines)


def test_explain_says_what_is_left_out():
    assert "left out: id, b" in Predictor(Named()).explain({"x": X, "id": "a", "label": Y, "b": X2}).split("\n")


def test_explain_runs_nothing():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("it must not run")

    assert "(x)" in Predictor(Never(), layers=(0,)).explain((X, Y))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"xx": X, "y": Y}, r"lacks 'x', did you mean 'xx'\?"),
        ({"x": X, "y": Y, "label": Y}, "may be 'label' or 'y'"),
        ((X, Y[:3]), "must have one length"),
        ((), "at least 1 element"),
    ],
)
def test_explain_says_as_a_learner_would_what_does_not_fit(batch, message):
    with pytest.raises(LearnerError, match=message):
        Predictor(Named()).explain(batch)


def test_explain_agrees_with_what_goes_in():
    """Each line that explains is what `split` gives and `feed` calls."""
    seen = []

    class Sees(nn.Module):
        def forward(self, x, extra):
            seen.append((x, extra))
            return x

    predictor = Predictor(Sees())
    batch = {"extra": X2, "y": Y, "x": X}
    xb, yb, size = predictor.split(batch)
    predictor.feed(predictor.model, xb)
    assert same(seen[0], (X, X2))
    assert yb is Y
    assert size == 5


# -- what counts as predictions -----------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Any


@pytest.mark.parametrize(
    ("output", "preds"),
    [
        (X, X),
        ((X, Y), (X, Y)),
        ({"logits": X, "loss": Y}, X),
        (OrderedDict(loss=Y, logits=X), X),
        (Output(X), X),
        (namedtuple("N", "loss logits")(Y, X), X),
    ],
)
def test_preds_are_the_logits_where_there_are_some(output, preds):
    assert same(preds_of(output), preds)


@pytest.mark.parametrize("output", [{"out": X}, [X, Y], Batch(X, Y), None, "text"])
def test_preds_are_all_of_an_output_without_logits(output):
    assert preds_of(output) is output


class Rows(MutableMapping):
    """As a `TensorDict`: a mapping that has a shape, iterates over its rows and refuses `in`; nor has it a hash."""

    def __init__(self, **columns):
        self.columns = columns

    @property
    def shape(self):
        return next(iter(self.columns.values())).shape[:1]

    def size(self, axis):
        return self.shape[axis]

    def __iter__(self):
        return (Rows(**{name: column[i] for name, column in self.columns.items()}) for i in range(len(self)))

    def __contains__(self, name):
        raise NotImplementedError("use `in rows.keys()`")

    def keys(self):
        return self.columns.keys()

    def values(self):
        return self.columns.values()

    def items(self):
        return self.columns.items()

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, name):
        return self.columns[name]

    def __setitem__(self, name, column):
        self.columns[name] = column

    def __delitem__(self, name):
        del self.columns[name]

    def to(self, device):
        return Rows(**{name: column.to(device) for name, column in self.columns.items()})


class Whole(nn.Linear):
    def forward(self, batch):
        return Rows(logits=super().forward(batch["input"]), more=batch["input"])


@pytest.mark.parametrize("kind", [nn.Linear, Whole])
@pytest.mark.parametrize("is_pair", [False, True])
def test_a_mapping_that_iterates_over_its_rows_is_taken_by_its_names(kind, is_pair):
    torch.manual_seed(0)
    model, twin, x, y = kind(3, 2), nn.Linear(3, 2), torch.randn(8, 3), torch.randint(0, 2, (8,))
    twin.load_state_dict(model.state_dict())
    batches = []
    for ids in torch.arange(8).split(4):
        xb, yb = x[ids], y[ids]
        batches.append((Rows(input=xb), yb) if is_pair else Rows(input=xb, label=yb, example_id=ids))
    collect = CollectCallback(ClassificationMetricsCollector(), on=["train"])
    cbs = [DeviceCallback("cpu")] if is_pair else [DeviceCallback("cpu"), collect]
    learn = Learner(model, {"train": batches, "valid": batches}, nn.functional.cross_entropy, 0.1, cbs=cbs)
    learn.fit(1)
    assert learn.n_samples == 8
    assert is_pair or collect.samples.numpy("label").tolist() == y.tolist()
    opt = torch.optim.SGD(twin.parameters(), 0.1)
    for xb, yb in zip(x.split(4), y.split(4), strict=True):
        nn.functional.cross_entropy(twin(xb), yb).backward()
        opt.step()
        opt.zero_grad()
    preds, targets = learn.get_preds("valid")
    assert torch.equal(preds, twin(x).detach())
    assert torch.equal(targets, y)


def test_a_mapping_that_iterates_over_its_rows_is_described_by_its_names():
    assert describe(Rows(a=torch.zeros(2, 3))) == "Rows{'a': Tensor(2, 3) float32}"
