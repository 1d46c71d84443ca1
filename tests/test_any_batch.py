"""Whatever a dataset yields, `Learner(model, dls, loss_f)` trains on it, or one message says what does not fit."""

import copy
import dataclasses
import types
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader

from callbacks import LambdaCallback
from learner import Learner, LearnerError, Predictor

Pair = namedtuple("Pair", "x y")
Unnamed = namedtuple("Unnamed", "first second")


@dataclass
class Batch:
    x: Any
    y: Any


@dataclass(frozen=True)
class Rich:
    y: Any
    x: Any
    ids: Any = None


class Own:
    """A batch of one's own, as text libraries make them."""

    def __init__(self, **fields):
        vars(self).update(fields)


class Data(dict):
    """A batch of four numbers a sample; `x` is `a + b`, so that nothing may be mixed up."""

    def __init__(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, n, 4, generator=generator)
        super().__init__(a=a, b=b, x=a + b, y=torch.randint(0, 3, (n,), generator=generator))

    __getattr__ = dict.__getitem__

    def only(self, names, **renamed):
        return {**{name: self[name] for name in names.split()}, **{new: self[old] for new, old in renamed.items()}}


DATA = [Data(6, 0), Data(3, 1)]  # the last one shorter, as it is


def net(forward):
    """Return a model with a `layer` and this forward, the same weights each time."""
    torch.manual_seed(0)
    model = type("Net", (nn.Module,), {"forward": forward})()
    model.layer = nn.Linear(4, 3)
    return model


def plain(self, x):
    return self.layer(x)


def two(self, a, b):
    return self.layer(a + b)


def two_swapped(self, b, a):
    return self.layer(a + b)


def pair(self, pair):
    return self.layer(pair[0] + pair[1])


def with_default(self, x, scale=1.0):
    return self.layer(x * scale)


def keyword_only(self, *, a, b=None):
    return self.layer(a + b)


def any_name(self, **fields):
    return self.layer(fields["a"] + fields["b"])


def one_and_any_name(self, a, **fields):
    return self.layer(a + fields["b"])


def any_number(self, *parts):
    return self.layer(sum(parts))


def positional_only(self, x, /):
    return self.layer(x)


def whole(self, batch):
    return self.layer(batch["x"])


def annotated(self, inputs: dict):
    return self.layer(inputs["x"])


def whole_object(self, batch):
    return self.layer(batch.x)


def of_inputs(self, inputs):
    return self.layer(inputs["a"] + inputs["b"])


def of_texts(self, texts, x):
    return self.layer(x) if all(isinstance(text, str) for text in texts) else None


CASES = {
    # tuples and lists
    "tuple": (plain, lambda d: (d.x, d.y), {}),
    "list": (plain, lambda d: [d.x, d.y], {}),
    "positional-only": (positional_only, lambda d: (d.x, d.y), {}),
    "a default that is left": (with_default, lambda d: (d.x, d.y), {}),
    "two inputs": (two, lambda d: (d.a, d.b, d.y), {}),
    "two inputs, list": (two, lambda d: [d.a, d.b, d.y], {}),
    "any number of inputs": (any_number, lambda d: (d.a, d.b, d.y), {}),
    "n_inp=1": (plain, lambda d: (d.x, d.y, d.a), {"n_inp": 1, "target_fn": lambda batch: batch[1]}),
    "n_inp=2": (two, lambda d: (d.a, d.b, d.y), {"n_inp": 2}),
    "target_fn of a tuple": (plain, lambda d: (d.x, (d.y, None)), {"target_fn": lambda batch: batch[1][0]}),
    "lengths that are said to be right": (
        plain,
        lambda d: (d.x, d.y, torch.zeros(99)),
        {"n_inp": 1, "target_fn": lambda batch: batch[1]},
    ),
    # one input that is a nest
    "((a, b), y), one argument": (pair, lambda d: ((d.a, d.b), d.y), {}),
    "([a, b], y), one argument": (pair, lambda d: ([d.a, d.b], d.y), {}),
    "((a, b), y), two arguments": (two, lambda d: ((d.a, d.b), d.y), {}),
    "([a, b], y), two arguments": (two, lambda d: [[d.a, d.b], d.y], {}),
    "(mapping, y), by name": (two_swapped, lambda d: (d.only("a b"), d.y), {}),
    "(mapping, y), whole": (of_inputs, lambda d: (d.only("a b"), d.y), {}),
    "(namedtuple, y), whole": (whole_object, lambda d: (Pair(d.x, 0), d.y), {}),
    # mappings
    "mapping": (plain, lambda d: d.only("x y"), {}),
    "mapping, other order": (plain, lambda d: d.only("y x"), {}),
    "mapping, two by name": (two_swapped, lambda d: d.only("a b y"), {}),
    "mapping, keyword-only": (keyword_only, lambda d: d.only("b y a"), {}),
    "mapping, default left out": (with_default, lambda d: d.only("x y"), {}),
    "mapping, default given": (with_default, lambda d: {**d.only("x y"), "scale": torch.ones(len(d.x), 1)}, {}),
    "mapping, the one key that is left": (two, lambda d: d.only("a b", cls="y"), {}),
    "mapping, more than the target is left": (plain, lambda d: d.only("a x y b"), {}),
    "mapping, target_key": (plain, lambda d: d.only("x", label="a", cls="y"), {"target_key": "cls"}),
    "mapping, target_key that forward takes": (
        lambda self, x, y=None: self.layer(x) if y is None else None,
        lambda d: d.only("x y"),
        {"target_key": "y"},
    ),
    "mapping, target_fn": (
        plain,
        lambda d: {"x": d.x, "boxes": {"cls": d.y}},
        {"target_fn": lambda batch: batch["boxes"]["cls"]},
    ),
    "mapping, **": (any_name, lambda d: d.only("a b y"), {}),
    "mapping, ** with target_key": (any_name, lambda d: d.only("a b", cls="y"), {"target_key": "cls"}),
    "mapping, one and **": (one_and_any_name, lambda d: d.only("a b y"), {}),
    "mapping, forward(batch)": (whole, lambda d: d.only("x y a"), {}),
    "mapping, forward(batch), target_key": (whole, lambda d: d.only("x", cls="y"), {"target_key": "cls"}),
    "mapping, forward(inputs: dict)": (annotated, lambda d: d.only("x y"), {}),
    "mapping, a value that is a mapping": (of_inputs, lambda d: {"inputs": d.only("a b"), "y": d.y}, {}),
    "mapping, a value that is a tuple": (pair, lambda d: {"pair": (d.a, d.b), "y": d.y}, {}),
    "mapping, a value that is a list": (pair, lambda d: {"pair": [d.a, d.b], "y": d.y}, {}),
    "mapping with texts": (of_texts, lambda d: {"texts": ["a"] * len(d.x), "x": d.x, "y": d.y}, {}),
    "OrderedDict": (two_swapped, lambda d: OrderedDict(d.only("a b y")), {}),
    "UserDict": (two_swapped, lambda d: UserDict(d.only("a b y")), {}),
    "mapping, keys that are no names": (plain, lambda d: {0: d.a, **d.only("x y")}, {}),
    "unpack_dicts": (
        two,
        lambda d: d.only("a b", label="y"),
        {"preprocess_fn": lambda batch: {k: batch[k] for k in "ab"}, "unpack_dicts": True},
    ),
    "preprocess_fn": (plain, lambda d: d.only("a b y"), {"preprocess_fn": lambda batch: batch["a"] + batch["b"]}),
    "preprocess_fn, target_key": (
        plain,
        lambda d: d.only("a b", cls="y"),
        {"preprocess_fn": lambda batch: batch["a"] + batch["b"], "target_key": "cls"},
    ),
    "preprocess_fn of a list": (plain, lambda d: [d.a, d.b, d.y], {"preprocess_fn": lambda batch: batch[0] + batch[1]}),
    "unpack_lists": (
        two,
        lambda d: d.only("a b y"),
        {"preprocess_fn": lambda batch: (batch["a"], batch["b"]), "unpack_lists": True},
    ),
    "disable_preprocess": (whole, lambda d: d.only("x", cls="y"), {"disable_preprocess": True, "target_key": "cls"}),
    # named tuples, dataclasses, objects
    "namedtuple by name": (plain, lambda d: Pair(d.x, d.y), {}),
    "namedtuple by name, whatever its order": (
        lambda self, b, a: self.layer(a + b),
        lambda d: namedtuple("N", "y a b")(d.y, d.a, d.b),
        {},
    ),
    "namedtuple by position": (plain, lambda d: Unnamed(d.x, d.y), {}),
    "dataclass": (plain, lambda d: Batch(d.x, d.y), {}),
    "dataclass, other order, more in it": (plain, lambda d: Rich(d.y, d.x, list(range(len(d.y)))), {}),
    "dataclass, whole": (whole_object, lambda d: Batch(d.x, d.y), {}),
    "dataclass, whole, target_key": (whole_object, lambda d: Rich(d.a, d.x, d.y), {"target_key": "ids"}),
    "dataclass, whole, target_fn": (
        whole_object,
        lambda d: Rich(d.a, d.x, d.y),
        {"target_fn": lambda batch: batch.ids},
    ),
    "own object": (
        lambda self, anything: self.layer(anything.premise),
        lambda d: Own(premise=d.x, cls=d.y),
        {"target_fn": lambda batch: batch.cls},
    ),
}


def steps_by_hand(n_epochs=2, lr=0.1):
    """Return the layer, and the mean train loss of each epoch, of the loop that everybody writes."""
    layer, means = net(plain).layer, []
    opt = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(n_epochs):
        total = 0.0
        for data in DATA:
            loss = cross_entropy(layer(data.x), data.y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item() * len(data.y)
        means.append(total / 9)
    return layer, means


def learner_of(forward, arrange, options=None, loss_f=cross_entropy, **more):
    model = forward if isinstance(forward, nn.Module) else net(forward)
    batches = [arrange(data) for data in DATA]
    predictor = Predictor(model, **options) if options else None
    return Learner(model, {"train": batches, "valid": batches}, loss_f, predictor=predictor, **more)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_trains_as_if_it_were_plain_pairs(case):
    learn = learner_of(*case)
    learn.fit(2)
    layer, means = steps_by_hand()
    assert torch.equal(learn.model.layer.weight, layer.weight)
    assert learn.history.to_dict()["train/loss"] == pytest.approx(means, rel=1e-6)
    assert learn.n_samples == 2 * 9
    preds, targets = learn.get_preds("valid")
    x, y = torch.cat([d.x for d in DATA]), torch.cat([d.y for d in DATA])
    torch.testing.assert_close(preds, layer(x).detach())
    assert torch.equal(targets, y)
    assert learn.validate()["loss"] == pytest.approx(cross_entropy(layer(x), y).item(), rel=1e-6)


def test_a_bare_tensor_is_the_input_and_there_is_no_target():
    learn = learner_of(plain, lambda d: d.x, loss_f=lambda preds: preds.square().mean())
    learn.fit(1)
    assert learn.n_samples == 9
    assert learn.get_preds()[1] is None


class Collated:
    """Samples, for a DataLoader with the default collate function."""

    def __init__(self, arrange):
        joined = {name: torch.cat([d[name] for d in DATA]) for name in "abxy"}
        self.samples = [arrange(**{name: joined[name][i] for name in "abxy"}) for i in range(9)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]


@pytest.mark.parametrize(
    ("forward", "arrange"),
    [
        (plain, lambda a, b, x, y: (x, y)),
        (plain, lambda a, b, x, y: (x.numpy(), int(y))),
        (plain, lambda a, b, x, y: {"x": x, "y": y}),
        (plain, lambda a, b, x, y: Pair(x, y)),
        (two, lambda a, b, x, y: (a, b, y)),
        (two, lambda a, b, x, y: {"a": a, "b": b, "label": y}),
        (two, lambda a, b, x, y: ((a, b), y)),
        (pair, lambda a, b, x, y: ((a, b), y)),
        (of_inputs, lambda a, b, x, y: ({"a": a, "b": b}, y)),
        (of_texts, lambda a, b, x, y: {"texts": "so", "x": x, "y": y}),
    ],
)
def test_what_the_default_collate_function_makes_of_samples(forward, arrange):
    model = net(forward)
    learn = Learner(model, {"train": DataLoader(Collated(arrange), batch_size=6)}, cross_entropy)
    learn.fit(2)
    assert torch.equal(model.layer.weight, steps_by_hand()[0].weight)
    assert learn.n_samples == 2 * 9


# -- named loaders ------------------------------------------------------------------------------------------------


def loaders(names):
    return {name: [(d.x, d.y) for d in (DATA[:1] if name.endswith("2") else DATA)] for name in names}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "train2", "valid2"),
        ("train", "train2", "valid", "valid2"),
        ("valid", "train"),
        ("infer", "train_a", "valid_b", "infer2"),
    ],
)
def test_loaders_run_in_just_the_order_given(names):
    passes, learn = [], Learner(net(plain), loaders(names), cross_entropy)
    learn.fit(2, cbs=LambdaCallback(before_epoch=lambda learn: passes.append((learn.epoch, learn.dl_name))))
    assert passes == [(epoch, name) for epoch in (0, 1) for name in names]
    columns = [f"{name}/loss" for name in names if not name.startswith("infer")]
    assert [key for key in learn.history.to_dict() if key != "epoch"] == columns


def test_roles_forward_and_backward_forward_and_loss_forward_alone():
    seen = {}
    dls = {
        **loaders(("train", "valid", "train2")),
        "infer": [d.x for d in DATA],
        "infer_mapping": [d.only("x") for d in DATA],
    }

    def note(learn):
        seen[learn.dl_name] = (learn.preds.requires_grad, learn.loss is not None, learn.n_steps)

    Learner(net(plain), dls, cross_entropy).fit(1, cbs=LambdaCallback(after_batch=note))
    assert seen == {
        "train": (True, True, 2),
        "valid": (False, True, 2),
        "train2": (True, True, 3),
        "infer": (False, False, 3),
        "infer_mapping": (False, False, 3),
    }


def test_metrics_and_history_carry_the_loaders_name():
    learn = Learner(net(plain), loaders(("train", "valid", "train2", "valid2")), cross_entropy)
    learn.fit(1)
    assert list(learn.metrics) == ["train", "valid", "train2", "valid2"]
    row = learn.history[0]
    assert list(row) == ["epoch", "train/loss", "valid/loss", "train2/loss", "valid2/loss"]
    assert row["valid2/loss"] == learn.metrics["valid2"]["loss"] != learn.metrics["valid"]["loss"]


def test_validate_takes_a_loader_by_name():
    learn = Learner(net(plain), loaders(("train", "valid", "valid2")), cross_entropy)
    expected = cross_entropy(learn.model(DATA[0].x), DATA[0].y).item()
    assert learn.validate("valid2") == {"loss": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("forward", "with_target", "without", "options"),
    [
        (plain, lambda d: (d.x, d.y), lambda d: d.x, {}),
        (plain, lambda d: (d.x, d.y), lambda d: (d.x,), {}),
        (plain, lambda d: [d.x, d.y], lambda d: [d.x], {}),
        (two, lambda d: (d.a, d.b, d.y), lambda d: (d.a, d.b), {}),
        (two, lambda d: (d.a, d.b, d.y), lambda d: (d.a, d.b), {"n_inp": 2}),
        (two, lambda d: d.only("a b y"), lambda d: d.only("a b"), {}),
        (plain, lambda d: d.only("x", cls="y"), lambda d: d.only("x"), {"target_key": "cls"}),
        (plain, lambda d: d.only("x y a"), lambda d: d.only("x a b"), {}),
        (whole, lambda d: d.only("x y"), lambda d: d.only("x"), {}),
        (plain, Pair._make, None, {}),
        (plain, lambda d: d.only("a b y"), lambda d: d.only("a b"), {"preprocess_fn": lambda b: b["a"] + b["b"]}),
    ],
)
def test_get_preds_of_an_infer_loader_with_and_without_targets(forward, with_target, without, options):
    if without is None:
        with_target, without = lambda d: Pair(d.x, d.y), lambda d: d.x
    model = net(forward)
    dls = {
        "train": list(map(with_target, DATA)),
        "infer": list(map(with_target, DATA)),
        "infer2": list(map(without, DATA)),
    }
    learn = Learner(model, dls, cross_entropy, predictor=Predictor(model, **options))
    learn.fit(1)
    expected = model.layer(torch.cat([d.x for d in DATA])).detach()
    for name in ("infer", "infer2"):
        preds, targets = learn.get_preds(name)
        torch.testing.assert_close(preds, expected)
        assert targets is None if name == "infer2" else torch.equal(targets, torch.cat([d.y for d in DATA]))


def test_a_loader_for_a_test_is_there_to_be_asked_for_and_no_fit_runs_it():
    passes, learn = [], Learner(net(plain), loaders(("test", "train", "val", "test_2")), cross_entropy)
    learn.fit(1, cbs=LambdaCallback(before_epoch=lambda learn: passes.append((learn.dl_name, learn.role))))
    assert passes == [("train", "train"), ("val", "valid")]
    assert learn.validate("test") == learn.validate("val")
    assert torch.equal(learn.get_preds("test")[1], torch.cat([d.y for d in DATA]))


def test_predictions_of_a_test_loader_need_no_targets():
    test = [d.only("x") | {"age": torch.ones(len(d.y))} for d in DATA]
    learn = Learner(net(plain), {"train": [d.only("x y") for d in DATA], "test": test}, cross_entropy)
    learn.fit(1)
    assert learn.get_preds("test")[1] is None


# -- one target in a fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("train", "valid"), ("valid", "train")])
@pytest.mark.parametrize("target", ["label", "cls"])
@pytest.mark.parametrize("options", [{}, {"preprocess_fn": lambda batch: batch["x"]}], ids=["plain", "told"])
def test_the_field_that_training_used_is_the_target_of_all_loaders(order, target, options):
    if options and target == "cls":
        return  # what is only left is the target of a mapping alone that is taken apart by names
    train = [d.only("x", **{target: "y"}) for d in DATA]
    dls = {"train": train, "valid": train}
    model = net(plain)
    learn = Learner(model, {name: dls[name] for name in order}, cross_entropy, predictor=Predictor(model, **options))
    learn.fit(1)
    learn.dls = {**dls, "valid": [d.only("x", age="y") for d in DATA]}
    with pytest.raises(
        LearnerError, match=f"target must be '{target}' in every loader, since training used that.*'age'"
    ):
        learn.validate()
    infer = [d.only("x", age="y") for d in DATA]
    assert learn.get_preds(infer)[1] is None
    assert torch.equal(learn.get_preds(train)[1], torch.cat([d.y for d in DATA]))


def test_each_fit_decides_anew_and_a_validation_before_it_or_within_it_does_not():
    a, b = ([d.only("x", **{name: "y"}) for d in DATA] for name in ("a", "b"))
    learn = Learner(net(plain), {"train": a, "valid": b}, cross_entropy)
    learn.validate()  # nothing is trained yet, so what is left is the target
    for name, train, valid in (("a", a, b), ("b", b, a)):
        learn.dls = {"train": train, "valid_2": train}
        learn.fit(1, cbs=LambdaCallback(before_epoch=lambda learn: learn.is_side_pass or learn.validate("valid_2")))
        learn.dls = {"train": train, "valid": valid}
        with pytest.raises(LearnerError, match=f"target must be '{name}' in every loader"):
            learn.validate()


@pytest.mark.parametrize("kind", [list, tuple])
def test_images_and_boxes_as_a_collate_function_zips_them_are_counted_by_image(kind):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, images):
            return [self.layer(image).mean((0, 1)) for image in images]

    def loss_f(preds, targets):
        return sum((p - t["boxes"].mean(0)).abs().sum() for p, t in zip(preds, targets, strict=True)) / len(targets)

    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)
    sizes = ((9, 1, 1), (1, 2))
    data = [(kind(draw(1, 8, 8) for _ in ns), kind({"boxes": draw(n, 4)} for n in ns)) for ns in sizes]
    model = Detector()
    expected = (3 * loss_f(model(data[0][0]), data[0][1]) + 2 * loss_f(model(data[1][0]), data[1][1])) / 5
    learn = Learner(model, {"train": data, "valid": data}, loss_f, lr=0.0)
    learn.fit(1)
    assert learn.n_samples == 5
    assert learn.metrics["train"]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert [len(part) for part in learn.get_preds("valid")] == [5, 5]


@pytest.mark.parametrize("name", ["dev", "Train", "my_valid"])
def test_a_name_of_another_role_lists_them(name):
    with pytest.raises(ValueError, match=rf"'train'.*'valid'.*'infer'.*got '{name}'"):
        Learner(net(plain), loaders(("train", name)), cross_entropy)


# -- keys and forward may come and go -----------------------------------------------------------------------------


def test_when_forward_stops_taking_a_key_nothing_else_changes():
    """Key-value data is all one needs: an extra feature may be taken or not."""
    batches = [{"features": d.x, "extra_features": d.a, "targets": d.y} for d in DATA]
    taken = []

    class Both(nn.Linear):
        def forward(self, features, extra_features):
            taken.append("both")
            return super().forward(features + 0 * extra_features)

    class One(nn.Linear):
        def forward(self, features):
            taken.append("one")
            return super().forward(features)

    for kind in (Both, One):
        torch.manual_seed(0)
        learn = Learner(kind(4, 3), {"train": batches}, cross_entropy)
        learn.fit(2)
        torch.testing.assert_close(learn.model.weight, steps_by_hand()[0].weight)
    assert taken == ["both"] * 4 + ["one"] * 4


def test_batches_of_several_kinds_may_come_from_one_loader():
    batches = [(DATA[0].x, DATA[0].y), DATA[1].only("x y")]
    learn = Learner(net(plain), {"train": batches}, cross_entropy)
    learn.fit(2)
    assert torch.equal(learn.model.layer.weight, steps_by_hand()[0].weight)


def test_a_model_that_is_swapped_is_given_what_it_takes_itself():
    batches = [d.only("x y", z="a") for d in DATA]
    learn = Learner(net(plain), {"train": batches, "valid": batches}, cross_entropy)
    learn.fit(1)
    learn.model = net(lambda self, z: self.layer(z))
    expected = cross_entropy(learn.model(torch.cat([d.a for d in DATA])), torch.cat([d.y for d in DATA]))
    assert learn.validate()["loss"] == pytest.approx(expected.item(), rel=1e-6)


# -- wrapped models -----------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """As data parallel wrappers are: the model is `.module`, all arguments are passed on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


WRAPPERS = {
    "compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    ".module": Wrapper,
    "compiled .module": lambda model: torch.compile(Wrapper(model), backend="eager"),
    ".module of compiled": lambda model: Wrapper(torch.compile(model, backend="eager")),
    "average": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("case", ["tuple", "two inputs", "mapping", "mapping, two by name", "mapping, **", "dataclass"])
def test_wrapped_models_are_seen_through(wrap, case):
    forward, arrange, options = CASES[case]
    inner = net(forward)
    wrapped = wrap(inner)
    layer = wrapped.module.layer if wrap is torch.optim.swa_utils.AveragedModel else inner.layer
    learn = learner_of(wrapped, arrange, options)
    with torch.compiler.set_stance("force_eager"):
        learn.fit(2)
    assert torch.equal(layer.weight, steps_by_hand()[0].weight)


def test_a_model_that_was_compiled_in_place_or_for_real_trains_on_a_mapping():
    inner = net(two_swapped)
    learn = learner_of(torch.compile(inner, backend="eager"), lambda d: d.only("a b y"))
    learn.fit(2)
    torch.testing.assert_close(inner.layer.weight, steps_by_hand()[0].weight)
    in_place = net(two_swapped)
    in_place.compile(backend="eager")
    learner_of(in_place, lambda d: d.only("a b y")).fit(2)
    torch.testing.assert_close(in_place.layer.weight, steps_by_hand()[0].weight)


def test_a_wrapped_model_is_refused_in_the_words_of_the_one_inside():
    learn = learner_of(nn.DataParallel(net(two)), lambda d: d.only("a y"))
    with pytest.raises(LearnerError, match=r"forward takes \(a, b\), the batch lacks 'b'"):
        learn.fit(1)


def test_a_child_called_module_does_not_make_a_wrapper():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.module = nn.Linear(4, 3)

        def forward(self, x):
            return self.module(x)

    model = Head()
    learner_of(model, lambda d: d.only("x y")).fit(2)
    assert torch.equal(model.module.weight, steps_by_hand()[0].weight)


# -- what models return -------------------------------------------------------------------------------------------


class ModelOutput(OrderedDict):
    """As transformers' are: keys that are attributes as well, and positions."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


@dataclass
class Output:
    logits: Any
    loss: Any = None
    hidden: Any = None


Named = namedtuple("Named", "loss logits")
OUTPUTS = {
    "ModelOutput": ModelOutput,
    "dict": dict,
    "dataclass": Output,
    "namespace": types.SimpleNamespace,
    "namedtuple": lambda loss, logits: Named(loss, logits),
}


class Makes(nn.Module):
    """Make its own loss where it is given labels, as transformers do."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.make = nn.Linear(4, 3), make

    def forward(self, x, labels=None):
        logits = self.layer(x)
        return self.make(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


def lookups(learn):
    return learn.output, learn.preds, learn.yb, learn.loss


@pytest.mark.parametrize("make", OUTPUTS.values(), ids=OUTPUTS.keys())
@pytest.mark.parametrize("arrange", [lambda d: d.only("x", labels="y"), lambda d: (d.x, d.y)], ids=["mapping", "tuple"])
def test_without_loss_f_the_models_loss_is_used_and_logits_are_the_predictions(make, arrange):
    seen = []
    learn = learner_of(Makes(make), arrange, loss_f=None)
    learn.fit(2, cbs=LambdaCallback(after_batch=lambda learn: seen.append(lookups(learn))))
    layer, means = steps_by_hand()
    assert torch.equal(learn.model.layer.weight, layer.weight)
    assert learn.history.to_dict()["train/loss"] == pytest.approx(means, rel=1e-6)
    assert learn.n_samples == 2 * 9
    for output, preds, _, loss in seen:
        assert type(output) is type(make(loss=0, logits=0))
        logits, own = (output["logits"], output["loss"]) if isinstance(output, dict) else (output.logits, output.loss)
        assert preds is logits
        assert loss is own
    preds, _ = learn.get_preds()
    torch.testing.assert_close(preds, layer(torch.cat([d.x for d in DATA])).detach())


def test_a_target_that_the_model_takes_by_name_is_the_target_too():
    """So that metrics work where the model makes the loss itself."""
    targets = []
    learn = learner_of(Makes(ModelOutput), lambda d: d.only("x", labels="y"), loss_f=None)
    learn.fit(1, cbs=LambdaCallback(after_batch=lambda learn: targets.append(learn.yb)))
    assert [target.tolist() for target in targets[:2]] == [d.y.tolist() for d in DATA]
    assert torch.equal(learn.get_preds()[1], torch.cat([d.y for d in DATA]))


@pytest.mark.parametrize("make", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_with_loss_f_the_logits_go_into_it(make):
    learn = learner_of(Makes(make), lambda d: (d.x, d.y))
    learn.fit(2)
    assert torch.equal(learn.model.layer.weight, steps_by_hand()[0].weight)


@pytest.mark.parametrize(
    ("forward", "loss_f"),
    [
        (lambda self, x: (self.layer(x), x), lambda preds, y: cross_entropy(preds[0], y)),
        (lambda self, x: [self.layer(x), x], lambda preds, y: cross_entropy(preds[0], y)),
        (lambda self, x: {"out": self.layer(x), "x": x}, lambda preds, y: cross_entropy(preds["out"], y)),
        (lambda self, x: Batch(self.layer(x), x), lambda preds, y: cross_entropy(preds.x, y)),
        (lambda self, x: Pair(self.layer(x), x), lambda preds, y: cross_entropy(preds.x, y)),
    ],
    ids=["tuple", "list", "dict", "dataclass", "namedtuple"],
)
def test_an_output_without_logits_is_the_predictions_whole(forward, loss_f):
    same = []
    learn = learner_of(forward, lambda d: (d.x, d.y), loss_f=loss_f)
    learn.fit(2, cbs=LambdaCallback(after_batch=lambda learn: same.append(learn.preds is learn.output)))
    assert all(same)
    assert torch.equal(learn.model.layer.weight, steps_by_hand()[0].weight)


def test_get_preds_joins_a_dataclass_field_by_field():
    learn = learner_of(lambda self, x: Batch(self.layer(x), x), lambda d: (d.x, d.y))
    preds, _ = learn.get_preds()
    fields = preds if isinstance(preds, dict) else vars(preds)
    torch.testing.assert_close(fields["y"], torch.cat([d.x for d in DATA]))
    assert fields["x"].shape == (9, 3)


# -- losses of several targets ------------------------------------------------------------------------------------


def one_by_one(preds, y, goal):
    return cross_entropy(preds, y) + mse_loss(preds, goal[:, :3])


def by_name(preds, goal, y):
    return one_by_one(preds, y, goal)


def together(preds, targets):
    return one_by_one(preds, *targets)


def together_named(preds, targets):
    return one_by_one(preds, **targets)


SEVERAL = {
    "tuple, one by one": (lambda d: (d.x, d.y, d.a), {"n_inp": 1}, one_by_one),
    "tuple, whole": (lambda d: (d.x, d.y, d.a), {"n_inp": 1}, together),
    "nested, one by one": (lambda d: (d.x, (d.y, d.a)), {}, one_by_one),
    "nested, whole": (lambda d: (d.x, (d.y, d.a)), {}, together),
    "nested list, one by one": (lambda d: [d.x, [d.y, d.a]], {}, one_by_one),
    "nested list, whole": (lambda d: [d.x, [d.y, d.a]], {}, together),
    "mapping, by name": (lambda d: (d.x, {"y": d.y, "goal": d.a}), {}, by_name),
    "mapping, whole": (lambda d: (d.x, {"y": d.y, "goal": d.a}), {}, together_named),
    "of a mapping, a tuple": (
        lambda d: d.only("x y a"),
        {"target_fn": lambda batch: (batch["y"], batch["a"])},
        one_by_one,
    ),
    "of a mapping, by name": (
        lambda d: d.only("x y", goal="a"),
        {"target_fn": lambda batch: {"y": batch["y"], "goal": batch["goal"]}},
        by_name,
    ),
}


class Mixed(nn.Module):
    """A loss that is a module with two targets."""

    def forward(self, preds, y, goal):
        return one_by_one(preds, y, goal)


@pytest.mark.parametrize(("arrange", "options", "loss_f"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_targets_go_to_the_loss_as_it_takes_them(arrange, options, loss_f):
    reference = Learner(
        net(plain), {"train": [(d.x, Own(**d)) for d in DATA]}, lambda preds, d: one_by_one(preds, d.y, d.a)
    )
    reference.fit(2)
    for loss in (loss_f, Mixed()) if loss_f is one_by_one else (loss_f,):
        learn = learner_of(plain, arrange, options, loss)
        learn.fit(2)
        assert torch.equal(learn.model.layer.weight, reference.model.layer.weight)
        assert learn.n_samples == 18


# -- batch size ---------------------------------------------------------------------------------------------------


class Detector(nn.Module):
    """As torchvision's are: a list of images of any size, a list of dicts; the loss of its own when it has targets."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, targets=None):
        if targets is not None:
            loss = sum((self.scale * i.mean() - t["boxes"].mean()) ** 2 for i, t in zip(images, targets, strict=True))
            return {"loss": loss / len(images)}
        return [{"score": (self.scale * image.mean()).reshape(1)} for image in images]


def detection_batch(sizes):
    images = [torch.full((3, 4 + i, 5), float(i)) for i in sizes]
    return images, [{"boxes": torch.full((i + 1, 4), float(i))} for i in sizes]


DETECTION = [detection_batch((1, 2)), detection_batch((3,))]


def detection_loss(preds, targets):
    return sum((p["score"] - t["boxes"].mean()).square().sum() for p, t in zip(preds, targets, strict=True)) / len(
        preds
    )


@pytest.mark.parametrize("loss_f", [None, detection_loss])
@pytest.mark.parametrize("arrange", [tuple, list, lambda batch: dict(zip(("images", "targets"), batch, strict=True))])
def test_images_of_several_sizes_with_a_dict_each(loss_f, arrange):
    sizes = []
    model = Detector()
    is_told = loss_f and isinstance(arrange(DETECTION[0]), dict)  # forward takes the targets as well
    predictor = Predictor(model, target_key="targets") if is_told else None
    learn = Learner(model, {"train": list(map(arrange, DETECTION))}, loss_f, lr=0.0, predictor=predictor)
    learn.fit(1, cbs=LambdaCallback(after_batch=lambda learn: sizes.append(learn.batch_size)))
    assert sizes == [2, 1]
    losses = [detection_loss(Detector()(images), targets).item() for images, targets in DETECTION]
    assert learn.metrics["train"]["loss"] == pytest.approx((2 * losses[0] + losses[1]) / 3)


def test_get_preds_gives_what_is_a_list_of_samples_as_one():
    preds, targets = Learner(Detector(), {"train": DETECTION}, detection_loss).get_preds(DETECTION)
    assert [pred["score"].item() for pred in preds] == [1, 2, 3]
    assert [len(target["boxes"]) for target in targets] == [2, 3, 4]


def test_get_preds_gives_targets_that_are_texts():
    _, targets = Learner(net(plain), {"train": [1]}).get_preds(
        [(torch.ones(2, 4), ["a", "b"]), (torch.ones(1, 4), ["c"])]
    )
    assert list(targets) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arrange", "loss_f"),
    [
        (lambda d: {"x": d.x.numpy(), "y": d.y}, lambda preds, y: cross_entropy(preds, y)),
        (lambda d: {"y": d.y.numpy(), "x": d.x}, lambda preds, y: cross_entropy(preds, torch.as_tensor(y))),
        (lambda d: (d.x, ["text"] * len(d.x)), lambda preds, texts: preds.mean()),
        (lambda d: (["text"] * len(d.x), d.y), lambda preds, y: preds.mean()),
        (lambda d: ({"lists": [1] * len(d.x)}, None), lambda preds: preds.mean()),
        (lambda d: [[d.a, d.b], d.y], lambda preds, y: preds.mean()),
        (lambda d: [{"a": d.a, "name": "const"}, d.y], lambda preds, y: preds.mean()),
    ],
    ids=["numpy input", "numpy target", "text target", "text input", "lists", "nest", "nest with a constant"],
)
def test_the_batch_size_is_found(arrange, loss_f):
    """Weights in the mean of the loss are right, whatever the samples come in."""

    def forward(self, x):
        return self.layer(torch.as_tensor(x) if isinstance(x, torch.Tensor | np.ndarray) else torch.ones(2, 4))

    sizes = []
    learn = learner_of(
        forward, arrange, {"target_fn": lambda batch: batch[-1] if not isinstance(batch, dict) else batch["y"]}, loss_f
    )
    learn.validate(cbs=LambdaCallback(after_batch=lambda learn: sizes.append((learn.batch_size, learn.loss.item()))))
    assert [size for size, _ in sizes] == [6, 3]
    assert learn.metrics["valid"]["loss"] == pytest.approx(sum(n * loss for n, loss in sizes) / 9)


def test_a_batch_size_that_cannot_be_known_is_asked_for():
    class Net(nn.Linear):
        def forward(self, batch):
            return super().forward(batch.points)

    batches = [Own(points=d.x) for d in DATA]
    learn = Learner(Net(4, 3), {"train": batches}, lambda preds: preds.square().mean())
    with pytest.raises(LearnerError, match=r"number of samples in a batch must be known, got Own.*`learn\.batch_size`"):
        learn.fit(1)
    learn = Learner(learn.model, {"train": batches}, lambda preds: preds.square().mean())
    learn.fit(1, cbs=LambdaCallback(after_predict=lambda learn: setattr(learn, "batch_size", len(learn.preds))))
    assert learn.n_samples == 9


@pytest.mark.parametrize("images", [{"images": DETECTION[0][0]}, (DETECTION[0][0],)], ids=["mapping", "tuple"])
def test_the_channels_of_images_are_never_taken_for_samples(images):
    sizes = []
    learn = Learner(Detector(), {"infer": [images]})
    with learn.added(LambdaCallback(after_predict=lambda learn: sizes.append(learn.batch_size))):
        try:
            learn.get_preds("infer")
        except LearnerError as error:
            assert "number of samples" in str(error)  # noqa: PT017  # to ask is right as well
    assert sizes in ([2], [None])


# -- bad input, each with one clear error -------------------------------------------------------------------------

X, Y = DATA[0].x, DATA[0].y
BAD = {
    "too few": (two, (X, Y), {}, r"(?s)Tensor\(6, 4\) float32.*forward takes \(a, b\).*n_inp"),
    "too many": (plain, (X, X, Y), {}, r"(?s)Tensor\(6, 4\).*Tensor\(6, 4\).*forward takes \(x\).*n_inp"),
    "n_inp larger than the batch": (plain, (X, Y), {"n_inp": 3}, r"at least 3 elements.*Tensor\(6,\) int64.*`n_inp`"),
    "n_inp of a mapping": (plain, {"x": X, "y": Y}, {"n_inp": 2}, r"`n_inp`.*'x': Tensor\(6, 4\)"),
    "key lacks": (
        two,
        {"a": X, "y": Y},
        {},
        r"forward takes \(a, b\), the batch lacks 'b'.*'a': Tensor\(6, 4\) float32.*Rename",
    ),
    "key lacks, nearest": (with_default, {"xs": X, "y": Y}, {}, r"lacks 'x', did you mean 'xs'\?"),
    "key misspelt": (
        lambda self, features, extra: 0,
        {"features": X, "exta": X, "y": Y},
        {},
        r"lacks 'extra', did you mean 'exta'\?",
    ),
    "two targets by name": (
        plain,
        {"x": X, "y": Y, "label": Y},
        {},
        r"may be 'label' or 'y'.*forward takes \(x\).*target_key",
    ),
    "two targets left": (plain, {"x": X, "this": Y, "that": Y}, {}, r"may be 'this' or 'that'.*target_key"),
    "two targets beside **": (any_name, {"a": X, "b": X, "y": Y, "label": Y}, {}, r"may be 'label' or 'y'.*target_key"),
    "nothing that forward takes": (
        plain,
        {"image": X, "y": Y},
        {},
        r"forward takes \(x\), the batch lacks 'x'.*'image': Tensor\(6, 4\)",
    ),
    "nothing that forward can take": (
        lambda self, x=None: 0,
        {"image": X, "y": Y},
        {},
        r"has nothing of that.*'image'",
    ),
    "nothing goes in by name": (any_number, {"x": X, "y": Y}, {}, r"forward takes \(\*parts\).*'x': Tensor"),
    "target_key misspelt": (
        plain,
        {"x": X, "label": Y},
        {"target_key": "labels"},
        r"`target_key` must be a key.*'labels'.*did you mean 'label'",
    ),
    "target_key misspelt, preprocess_fn": (
        plain,
        {"x": X, "label": Y},
        {"target_key": "labels", "preprocess_fn": lambda b: b["x"]},
        r"`target_key` must be a key.*'labels'.*did you mean 'label'",
    ),
    "target_key of a tuple": (
        plain,
        (X, Y),
        {"target_key": "y"},
        r"`target_key` must be a field.*'y'.*no names; use `target_fn`",
    ),
    "no target in a mapping": (
        plain,
        {"x": X},
        {},
        r"'train' must hold a target for `loss_f`.*'x': Tensor.*target_key",
    ),
    "no target in an object": (
        lambda self, b: self.layer(b.x),
        Own(x=X),
        {},
        "'train' must hold a target for `loss_f`, got Own",
    ),
    "forward takes the target": (
        lambda self, x, y=None: self.layer(x),
        {"x": X, "y": Y},
        {},
        "must hold a target.*target_key",
    ),
    "empty tuple": (plain, (), {}, r"a batch must hold at least 1 element.*got \(\)"),
    "empty mapping": (plain, {}, {}, r"the batch lacks 'x': \{\}"),
    "no sample": (
        plain,
        (X[:0], Y[:0]),
        {},
        r"at least one sample, got \(Tensor\(0, 4\) float32, Tensor\(0,\) int64\)",
    ),
    "no sample in a mapping": (plain, {"x": X[:0], "y": Y[:0]}, {}, "at least one sample, got"),
    "no sample, n_inp": (plain, (X[:0], Y[:0]), {"n_inp": 1}, "at least one sample, got"),
    "no sample, target_key": (plain, {"x": X[:0], "y": Y[:0]}, {"target_key": "y"}, "at least one sample, got"),
    "lengths": (plain, (X, Y[:3]), {}, r"must have one length.*Tensor\(6, 4\).*Tensor\(3,\).*n_inp"),
    "lengths of inputs": (two, (X, X[:5], Y), {}, r"must have one length.*Tensor\(6, 4\).*Tensor\(5, 4\)"),
    "lengths in a mapping": (plain, {"x": X, "y": Y[:3]}, {}, r"must have one length.*'y': Tensor\(3,\).*target_key"),
    "lengths in a dataclass": (plain, Batch(X, Y[:3]), {}, r"must have one length.*Batch.*Tensor\(3,\)"),
    "unpack_dicts of a list": (
        plain,
        [X, Y],
        {"unpack_dicts": True},
        r"`unpack_dicts=True` must have a mapping.*`unpack_lists`",
    ),
    "unpack_lists of a dict": (
        plain,
        {"x": X, "y": Y},
        {"unpack_lists": True},
        r"`unpack_lists=True` must have a tuple or list.*'x': Tensor\(6, 4\).*`unpack_dicts`",
    ),
    "unpack_dicts with a key too many": (
        plain,
        {"x": X, "y": Y},
        {"unpack_dicts": True},
        r"(?s)unexpected keyword.*'y'.*forward takes \(x\).*preprocess_fn",
    ),
    "preprocess_fn that returns None": (
        plain,
        (X, Y),
        {"preprocess_fn": lambda batch: None},
        r"`preprocess_fn` must return what goes into the model, got None for \(Tensor",
    ),
    "a dataclass that lacks a field": (
        two,
        dataclasses.make_dataclass("AY", ["a", "y"])(X, Y),
        {},
        r"forward takes \(a, b\).*'a': Tensor",
    ),
    "an object for two arguments": (two, Own(a=X, b=X), {}, r"Own.*forward takes \(a, b\)"),
    "a nest that does not fit": (two, ((X, X, X), Y), {}, r"Tensor\(6, 4\).*forward takes \(a, b\)"),
    "a mapping in a tuple that does not fit": (
        two,
        ({"a": X, "c": X}, Y),
        {},
        r"'c': Tensor\(6, 4\).*forward takes \(a, b\)",
    ),
}


@pytest.mark.parametrize(("forward", "batch", "options", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("run", [lambda learn: learn.fit(1), Learner.validate], ids=["fit", "validate"])
def test_a_batch_that_does_not_fit_gets_one_message(forward, batch, options, message, run):
    if "'train'" in message and run is Learner.validate:
        message = message.replace("train", "valid")
    model = net(forward)
    predictor = Predictor(model, **options)
    learn = Learner(model, {"train": [batch], "valid": [batch]}, cross_entropy, predictor=predictor)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LearnerError, match=message) as caught:
        run(learn)
    assert caught.value.__cause__ is None
    assert learn.n_steps == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("loader", ["infer", "infer_x"])
def test_an_infer_batch_that_does_not_fit_gets_that_message_too(loader):
    learn = Learner(net(two), {loader: [{"a": X, "bb": X}]})
    with pytest.raises(LearnerError, match=r"lacks 'b', did you mean 'bb'\?"):
        learn.get_preds(loader)


def test_no_loss_in_what_the_model_returns():
    with pytest.raises(LearnerError, match=r"must carry a `loss` when `loss_f` is None.*give the model the target"):
        learner_of(Makes(ModelOutput), lambda d: d.only("x"), loss_f=None).fit(1)


def test_an_error_of_the_models_own_stays_what_it_is():
    """Not every TypeError in a model is about what goes in."""

    def fails(self, x):
        raise TypeError("missing 1 required positional argument of another function")

    with pytest.raises(TypeError, match="of another function"):
        learner_of(fails, lambda d: (d.x, d.y)).fit(1)
