"""Layers by what people call them."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from learner.interrogate.layers import Layer, find_layers, named_layers


class Blocks(nn.Module):
    """Three blocks of two layers, of which the last is the first again under another name, and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2)])
        self.again = self.blocks[0]
        self.head = nn.Linear(2, 1)


NAMES = ["", "blocks", "blocks.0", "blocks.0.0", "blocks.0.1", "blocks.1", "blocks.1.0", "blocks.1.1", "head"]


class PassesOn(nn.Module):
    """A wrapper as many a library has one."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


WRAPPERS = [
    lambda model: model,
    nn.DataParallel,
    PassesOn,
    AveragedModel,
    lambda model: torch.compile(model, backend="eager"),
    lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
]


def found(model, *wanted):
    return [layer.name for layers in find_layers(model, wanted).values() for layer in layers]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_layers_are_those_of_the_model_whatever_is_around_it(wrap):
    model = Blocks()
    assert dict(model.named_modules()) == named_layers(model)
    wrapped = wrap(model)
    inner = model if wrap is not AveragedModel else wrapped.module  # it copies
    assert list(named_layers(wrapped)) == NAMES
    assert list(named_layers(wrapped).values()) == list(inner.modules())


def test_layers_are_those_of_its_parts_whatever_is_around_them():
    model = Blocks()
    names = list(named_layers(model))
    model.head = PassesOn(model.head)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    assert list(named_layers(model)) == names
    assert type(named_layers(model)["head"]) is nn.Linear


def test_a_wrapper_with_parts_of_its_own_is_a_layer():
    model = PassesOn(nn.Linear(2, 2))
    model.extra = nn.Linear(2, 2)
    assert list(named_layers(model)) == ["", "module", "extra"]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_do_not_matter(wrap, prefix):
    assert found(wrap(Blocks()), f"{prefix}blocks.1.0") == ["blocks.1.0"]


def test_a_name_of_the_model_s_own_is_no_prefix():
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    assert found(model, "module") == ["module"]


def test_a_second_name_finds_the_same_module():
    model = Blocks()
    ((layer,),) = find_layers(model, ["again.1"]).values()
    assert layer == Layer("again.1", model.blocks[0][1])


# -- positions and modules ---------------------------------------------------------------------------------------------


def test_positions_are_those_in_named_modules():
    model = Blocks()
    for i, (name, module) in enumerate(model.named_modules()):
        assert find_layers(model, [i])[i] == [Layer(name, module)]


def test_a_module_is_found_by_itself_and_by_what_is_around_it():
    model = Blocks()
    block, compiled = model.blocks[1], torch.compile(model, backend="eager")
    assert found(model, block, model) == ["blocks.1", ""]
    assert found(compiled, block, compiled, model) == ["blocks.1", "", ""]


# -- globs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", ["blocks", "head"]),
        ("**", NAMES),
        ("blocks.*", ["blocks.0", "blocks.1"]),
        ("blocks.*.0", ["blocks.0.0", "blocks.1.0"]),
        ("blocks.**", ["blocks.0", "blocks.0.0", "blocks.0.1", "blocks.1", "blocks.1.0", "blocks.1.1"]),
        ("**.1", ["blocks.0.1", "blocks.1", "blocks.1.1"]),
        ("**.head", ["head"]),
        ("block?.[01].1", ["blocks.0.1", "blocks.1.1"]),
        ("blocks.[!0]", ["blocks.1"]),
        ("h*d", ["head"]),
    ],
)
def test_a_star_stops_at_a_dot_and_two_do_not(glob, expected):
    assert found(Blocks(), glob) == expected


def test_what_a_glob_found_is_less_certain_to_run():
    by_glob, by_name = find_layers(Blocks(), ["hea?", "head"]).values()
    assert (by_glob[0].is_certain, by_name[0].is_certain) == (False, True)


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "is_input", "part"),
    [
        ("head", False, None),
        ("head:in", True, None),
        ("head:1", False, 1),
        ("head:logits", False, "logits"),
        ("head:in:0", True, 0),
        ("head:in:query", True, "query"),
    ],
)
def test_a_part_of_what_goes_in_or_comes_out(want, is_input, part):
    model = Blocks()
    assert find_layers(model, [want])[want] == [Layer(want, model.head, is_input, part)]


def test_the_model_itself_has_parts_as_well():
    assert found(Blocks(), ":in", ":0", "") == [":in", ":0", ""]


def test_parts_of_what_a_glob_finds():
    assert found(Blocks(), "blocks.*:in") == ["blocks.0:in", "blocks.1:in"]


# -- nothing there -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "message"),
    [
        ("haed", r"got 'haed', did you mean 'head'\?; there is 0 \(the model\), 1 blocks, 2 blocks\.0, .*, 8 head\."),
        ("blocks.2.0:in", r"got 'blocks\.2\.0:in', did you mean 'blocks\."),
        ("*.1.0.*", r"got '\*\.1\.0\.\*' \(`\*` stops at a dot, `\*\*` does not\)"),
        ("head:in:0:1", r"got 'head:in:0:1' \(a name ends in one part, as `:in`, `:0` or `:in:0`\)"),
        ("head:0:data", r"got 'head:0:data' \(a name ends in one part"),
        (9, "got 9; there is"),
        (-1, "got -1"),
        (True, "got True"),
        (1.0, r"got 1\.0"),
        (None, "got None"),
        (nn.Linear(2, 1), "got a Linear that it has not; there is"),
    ],
)
def test_what_fits_nothing_is_told_with_what_there_is(want, message):
    with pytest.raises(
        ValueError, match=f"`layers` must be names, globs, positions or modules of the model, {message}"
    ):
        find_layers(Blocks(), [want])


def test_of_many_layers_an_error_lists_the_first():
    with pytest.raises(ValueError, match=r"`edit` must be .* 29 28, and 71 more\."):
        find_layers(nn.Sequential(*[nn.ReLU() for _ in range(100)]), ["x"], "edit")
