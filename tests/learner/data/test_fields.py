"""Which fields of a batch go into a model by name, and which is the target."""

import inspect
from inspect import Parameter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learner import LearnerError, Predictor
from learner.data.fields import TARGET_NAMES, FieldPlan, as_argument, plan_fields
from learner.data.signature import ForwardSignature


def net(forward):
    return type("Net", (nn.Module,), {"forward": forward})()


def plan(forward, names, target=None, takes_target=False, needs_target=True, **options):
    fields = {name: torch.zeros(2) for name in names.split()}
    return plan_fields(
        ForwardSignature(net(forward)), fields, target, takes_target=takes_target, needs_target=needs_target, **options
    )


def takes_x(self, x):
    pass


def takes_two(self, x, extra=None):
    pass


def takes_labels(self, x, labels=None):
    pass


def takes_any(self, x, **more):
    pass


def takes_batch(self, batch):
    pass


@pytest.mark.parametrize(
    ("forward", "names", "options", "inputs", "target"),
    [
        # the one that is left
        (takes_x, "x y", {}, "x", "y"),
        (takes_x, "y x", {}, "x", "y"),
        (takes_x, "x cls", {}, "x", "cls"),
        (takes_two, "x cls extra", {}, "x extra", "cls"),
        (takes_two, "x cls", {}, "x", "cls"),
        (takes_x, "x", {}, "x", None),
        # by position alone
        (lambda self, x, /: 0, "x cls", {}, "x", "cls"),
        (lambda self, a, /, x: 0, "x a y", {}, "a x", "y"),
        # the one that is called so
        *[(takes_x, f"a x {name} b", {}, "x", name) for name in ("targets", "target", "labels", "label", "y")],
        # the one that is said
        (takes_x, "x y cls", {"target": "cls"}, "x", "cls"),
        (takes_x, "x y label", {"target": "y"}, "x", "y"),
        (takes_labels, "x labels", {"target": "labels"}, "x", "labels"),
        # one that forward takes is none, unless the model is to make the loss
        (takes_labels, "x labels", {}, "x labels", None),
        (takes_labels, "x labels", {"takes_target": True}, "x labels", "labels"),
        # it goes in and is the target where something else is left, which is not taken instead
        (takes_labels, "x labels idx", {}, "x labels", "labels"),
        (takes_labels, "x labels idx other", {}, "x labels", "labels"),
        (takes_labels, "x labels example_id", {}, "x labels", "labels"),
        # a number of the sample is no target
        (takes_x, "x cls example_id", {}, "x", "cls"),
        (takes_x, "x example_id", {}, "x", None),
        # the one of training, and no other
        (takes_x, "x a b cls", {"trained_on": "cls"}, "x", "cls"),
        (takes_x, "x y cls", {"trained_on": "cls"}, "x", "cls"),
        (takes_labels, "x labels idx", {"trained_on": "labels"}, "x labels", "labels"),
        (takes_x, "x y", {"trained_on": "cls", "needs_target": False}, "x", None),
        (takes_labels, "x y", {"trained_on": "labels", "takes_target": True}, "x", None),
        (takes_labels, "x cls", {"takes_target": True, "target": "cls"}, "x", "cls"),
        (takes_x, "x y", {"takes_target": True}, "x", "y"),
        # any name
        (takes_any, "x a y b", {}, "x a b", "y"),
        (takes_any, "x a b", {}, "x a b", None),
        (takes_any, "x a b", {"target": "b"}, "x a", "b"),
        (takes_any, "x a y", {"takes_target": True}, "x a y", "y"),
        # no target needed
        (takes_x, "x this that", {"needs_target": False}, "x", None),
        (takes_x, "x", {"needs_target": False}, "x", None),
        (takes_x, "x y label", {"needs_target": False}, "x", None),
        (takes_x, "x y", {"needs_target": False}, "x", "y"),
        (takes_x, "x age", {"needs_target": False}, "x", None),
        # the whole
        (takes_batch, "x y", {}, "", "y"),
        (takes_batch, "x cls", {"target": "cls"}, "", "cls"),
        (takes_batch, "x cls", {}, "", None),
        (takes_batch, "batch y", {}, "batch", "y"),
    ],
)
def test_inputs_and_target(forward, names, options, inputs, target):
    found = plan(forward, names, **options)
    assert set(found.inputs) == set(inputs.split())
    assert found.target == target
    assert found.is_whole is (not inputs)


def test_the_names_of_targets_are_those_that_are_documented():
    assert TARGET_NAMES == ("targets", "target", "labels", "label", "y")
    for name in TARGET_NAMES:
        assert f" {name}" in Predictor.__doc__.replace("`", " ").replace("\n", " ")


@pytest.mark.parametrize(
    ("forward", "names", "options", "message"),
    [
        (takes_x, "x y label", {}, r"may be 'label' or 'y'.*forward takes \(x\).*target_key="),
        (takes_x, "x a b", {}, r"may be 'a' or 'b'.*'a': Tensor\(2,\) float32.*target_key="),
        (takes_any, "x labels y", {}, "may be 'labels' or 'y'"),
        (takes_labels, "x idx", {}, r"may be 'idx'.*forward takes \(x, labels=None\).*target_key="),
        (takes_x, "x age", {"trained_on": "y"}, "must be 'y' in every loader, since training used that, .*'age'"),
        (takes_x, "x label", {"target": "labels"}, r"`target_key` must be a key.*'labels'.*did you mean 'label'\?"),
        (takes_x, "x y", {"target": "x"}, r"forward takes \(x\), the batch lacks 'x'"),
        (takes_two, "extra y", {}, r"forward takes \(x, extra=None\), the batch lacks 'x'"),
        (takes_two, "xx extra y", {}, r"lacks 'x', did you mean 'xx'\?"),
        (
            lambda self, input_ids, mask: 0,
            "input_id maks y",
            {},
            "lacks 'input_ids', *'mask'.*'input_id'.*'maks'|lacks 'input_ids'.*'input_id'.*'mask'.*'maks'",
        ),
        (lambda self, x=None: 0, "image y", {}, r"forward takes \(x=None\).*has nothing of that"),
        (takes_x, "", {}, "lacks 'x'"),
        (lambda self, a=0, b=0, /: 0, "b y", {}, r"forward takes \(a=0, b=0, /\), of which b cannot all be given by"),
        (lambda self, a, /, *, x: 0, "a x y", {}, r"of which a, x cannot all be given by position"),
    ],
)
def test_what_does_not_fit_gets_one_message(forward, names, options, message):
    with pytest.raises(LearnerError, match=message) as caught:
        plan(forward, names, **options)
    assert caught.value.__cause__ is None


def test_a_plan_takes_a_batch_apart():
    batch = {"x": torch.zeros(2), "pair": (1, 2), "named": {"a": 1}, "y": torch.ones(2)}
    assert FieldPlan(("x",), "y", True, False).take(batch, batch) == (batch["x"], batch["y"])
    assert FieldPlan(("x",), None, True, False).take(batch, batch) == (batch["x"], None)
    xb, yb = FieldPlan(("pair", "x"), "y", False, False).take(batch, batch)
    assert list(xb) == ["pair", "x"]
    assert xb["pair"] is batch["pair"]
    assert yb is batch["y"]


def test_what_goes_in_by_position_goes_in_in_the_order_of_the_arguments():
    batch = {"y": 3, "x": 2, "a": 1}
    takes = ForwardSignature(net(lambda self, a, /, x: 0))
    found = plan_fields(takes, batch, None, takes_target=False, needs_target=True)
    assert found.take(batch, batch) == ((1, 2), 3)


@pytest.mark.parametrize("value", [(1, 2), {"a": 1}, (), {}])
def test_a_value_that_is_a_nest_stays_one_argument(value):
    """A tuple stands for several arguments, a dict for named ones."""
    (one,) = as_argument(value)
    assert one is value
    assert FieldPlan(("x",), None, True, False).take({"x": value}, {"x": value})[0] == (value,)


@pytest.mark.parametrize("value", [torch.zeros(2), [1, 2], "text", None, object()])
def test_any_other_value_is_an_argument_as_it_is(value):
    assert as_argument(value) is value


# -- any forward, any keys ----------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d", "e", "labels", "target", "y"]


@st.composite
def signatures(draw):
    """Draw the parameters of a `forward`, in an order that Python takes."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    n_keyword_only = draw(st.integers(0, len(names)))
    parameters = []
    for i, name in enumerate(names):
        kind = Parameter.KEYWORD_ONLY if i < n_keyword_only else Parameter.POSITIONAL_OR_KEYWORD
        default = draw(st.sampled_from([Parameter.empty, "default"]))
        parameters.append(Parameter(name, kind, default=default))
    if draw(st.booleans()):
        parameters.append(Parameter("more", Parameter.VAR_KEYWORD))
    parameters.sort(key=lambda p: (p.kind, p.default is not Parameter.empty))
    return inspect.Signature(parameters)


class Records(nn.Module):
    """Have any signature; return what would be bound, as Python binds it."""

    def __init__(self, signature):
        super().__init__()

        def forward(*args, **kwargs):
            arguments = signature.bind(*args, **kwargs).arguments
            return {**{name: value for name, value in arguments.items() if name != "more"}, **arguments.get("more", {})}

        forward.__signature__ = signature
        self.forward = forward


def expected(signature, keys, target_key):
    """Return the names that go in and the target, by the words of the contract; None where it is an error."""
    named = {p.name: p.default is Parameter.empty for p in signature.parameters.values() if p.name != "more"}
    is_open = "more" in signature.parameters
    if target_key is not None and target_key not in keys:
        return None
    not_taken = [key for key in keys if key not in named]
    known = [key for key in not_taken if key in ("targets", "target", "labels", "label", "y")]
    candidates = [target_key] if target_key is not None else known
    if not candidates and not_taken and not is_open:
        names_a_target = any(name in TARGET_NAMES for name in named)
        candidates = [key for key in keys if key in named and key in TARGET_NAMES] if names_a_target else not_taken
        if not candidates:
            return None
    if len(candidates) > 1:
        return None
    target = candidates[0] if candidates else None
    takes_too = target_key is None and target in named
    goes_in = {key for key in keys if (key != target or takes_too) and (is_open or key in named)}
    is_missing = any(is_required and name not in goes_in for name, is_required in named.items())
    return None if is_missing or not goes_in else (goes_in, target)


@settings(max_examples=400, deadline=None)
@given(
    signatures(),
    st.lists(st.sampled_from([*NAMES, "id"]), unique=True, max_size=6),
    st.none() | st.sampled_from(NAMES),
)
def test_any_forward_and_any_keys_as_the_contract_says(signature, keys, target_key):
    batch = {key: torch.full((3,), float(i)) for i, key in enumerate(keys)}
    model = Records(signature)
    predictor = Predictor(model, target_key=target_key)
    wanted = expected(signature, keys, target_key)
    for _ in range(2):  # the second time from what is remembered
        if wanted is None:
            with pytest.raises(LearnerError, match="must"):
                predictor.split(batch)
            continue
        goes_in, target = wanted
        xb, yb, size = predictor.split(batch)
        bound = predictor.feed(model, xb)
        assert bound.keys() == goes_in
        assert all(bound[key] is batch[key] for key in goes_in)
        assert yb is (None if target is None else batch[target])
        assert size == 3
