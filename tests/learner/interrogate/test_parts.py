"""What is meant of what a layer receives and gives."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from learner import LearnerError
from learner.interrogate.layers import Layer
from learner.interrogate.parts import edited, input_key, only_tensor, part_of, swapped

X = torch.ones(2)
Attention = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize("value", [X, (X, None), [None, X], {"a": None, "b": X}, (X,)])
def test_the_only_tensor_is_found(value):
    assert only_tensor(value) is X


@pytest.mark.parametrize("value", [(X, X), (X, 1), (None, None), (), "text", None, SimpleNamespace(a=X), ((X, None),)])
def test_what_is_not_one_tensor_alone_stays_as_it_is(value):
    assert only_tensor(value) is value


def test_of_one_tensor_and_several_nones_the_tensor_goes_in():
    layer = Layer("l:in", Attention, is_input=True)
    inputs = {0: X, 1: None, "attn_mask": None}
    assert part_of(layer, inputs) is X
    assert input_key(layer, inputs) == 0
    assert part_of(layer, {0: X, 1: X}) == {0: X, 1: X}
    with pytest.raises(LearnerError, match="'l:in' must be an input of the layer, as `:in:0`"):
        input_key(layer, {0: X, 1: X})


def test_an_element_is_found_by_number_and_by_name_and_replaced():
    value = {"h": X, "c": 2 * X}
    for part in (1, "c"):
        layer = Layer("l", Attention, part=part)
        assert part_of(layer, value)[0] == 2
        assert edited(layer, value, lambda old: 3 * old)["c"][0] == 6
    assert value["c"][0] == 2
    with pytest.raises(LearnerError, match="'l' must be an element of what the layer gives"):
        part_of(Layer("l", Attention, part="d"), value)


def test_a_value_is_swapped_where_it_is():
    new = torch.zeros(2)
    assert swapped(X, X, new) is new
    assert swapped((X, None), X, new)[0] is new
    assert swapped({"a": 1, "b": X}, X, new) == {"a": 1, "b": new}
