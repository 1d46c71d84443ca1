"""Batches of any shape on a device. `meta` stands for one that is not the CPU: it moves shapes alone."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from learner.data.moving import HALF, cloned, copied, detached, in_float32, local_parts, mapped, tensors_of, to_device

CPU, META = torch.device("cpu"), torch.device("meta")
X = torch.ones(2, 3)
Pair = namedtuple("Pair", "x y")


@dataclass
class Batch:
    x: Any
    y: Any = None
    n: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    names: list[str]


class Movable:
    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return Movable(str(device))


class Output(OrderedDict):
    """A mapping with attributes, as transformers' outputs are."""

    source = "of the class"


def tensors(value):
    """Return the devices of all tensors, in order."""
    if isinstance(value, torch.Tensor):
        return [value.device.type]
    if isinstance(value, Batch | Frozen):
        return tensors([getattr(value, name) for name in ("x", "y", "names") if hasattr(value, name)])
    if hasattr(value, "values"):
        value = list(value.values())
    return [device for item in value for device in tensors(item)] if isinstance(value, tuple | list) else []


NESTS = [
    X,
    (X, X),
    [X, (X, [X])],
    {"x": X, "y": {"z": [X]}},
    (X, "text", 3, None),
    Pair(X, 1),
    Batch(X, [X]),
    Frozen(X, ["a"]),
    OrderedDict(x=X),
    UserDict(x=X),
    Output(x=X),
]


@pytest.mark.parametrize("nest", NESTS, ids=lambda nest: type(nest).__name__)
def test_all_tensors_of_a_nest_move_and_nothing_else_changes(nest):
    before = tensors(nest)
    moved = to_device(nest, META)
    assert type(moved) is type(nest)
    assert tensors(moved) == ["meta"] * len(before)
    assert tensors(nest) == before == ["cpu"] * len(before)
    assert before


@pytest.mark.parametrize(
    "nest", [*NESTS, "text", None, 3, (), {}, {1, 2}, object()], ids=lambda nest: type(nest).__name__
)
def test_what_is_there_already_stays_the_same_object(nest):
    assert to_device(nest, CPU) is nest


def test_what_does_not_move_stays_the_same_object_in_a_nest_that_does():
    keep = {"names": ["a"]}
    moved = to_device((X, keep, "text"), META)
    assert moved[1] is keep
    assert moved[2] == "text"


def test_order_keys_and_names_are_kept():
    moved = to_device({"b": X, 3: "c", "a": X}, META)
    assert list(moved) == ["b", 3, "a"]
    assert moved[3] == "c"
    assert to_device(Pair(1, X), META).x == 1
    batch = Batch(X)
    batch.n = 7  # a field that `__init__` does not take
    assert to_device(batch, META).n == 7
    assert to_device(Frozen(X, ["a"]), META).names == ["a"]


def test_what_a_mapping_knows_besides_is_kept():
    moved = to_device(defaultdict(list, x=X), META)
    assert moved["new"] == []
    output = Output(x=X)
    output.source = "of the object"
    assert to_device(output, META).source == "of the object"


class Bag(MutableMapping):
    """A mapping of one's own, whose plain copy holds the same dict."""

    def __init__(self, items):
        self.items_, self.note = dict(items), ["kept"]

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value):
        self.items_[key] = value

    def __delitem__(self, key):
        del self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


class ReadOnly(Mapping):
    __slots__ = ("pairs",)

    def __init__(self, items):
        self.pairs = tuple(items.items())

    def __getitem__(self, key):
        return dict(self.pairs)[key]

    def __iter__(self):
        return iter(dict(self.pairs))

    def __len__(self):
        return len(self.pairs)


class MadeWhenAsked(ReadOnly):
    def __getitem__(self, key):
        return super().__getitem__(key) * 1


@pytest.mark.parametrize("kind", [Bag, ReadOnly])
def test_a_mapping_of_ones_own_is_copied_and_keeps_its_gradient(kind):
    x, names = torch.ones(2, requires_grad=True) * 2, ["a"]
    bag = kind({"x": x, "names": names})
    moved, copies, bare = to_device(bag, META), cloned(bag), detached(bag)
    assert {type(each) for each in (moved, copies, bare)} == {kind}
    assert (moved["x"].device, bag["x"]) == (META, x)
    assert moved["names"] is bag["names"] is names
    assert copies["x"] is not x
    assert copies["x"].grad_fn is not None
    assert bag["x"].requires_grad
    assert not bare["x"].requires_grad


def test_a_mapping_that_makes_its_items_when_asked_becomes_a_dict():
    moved = to_device(MadeWhenAsked({"x": X}), META)
    assert (type(moved), moved["x"].device) == (dict, META)


def test_a_dict_whose_attributes_are_its_items_has_no_method_to_move():
    class AttributeDict(dict):
        __getattr__ = dict.get

    assert to_device(AttributeDict(x=X), META)["x"].device == META


def test_objects_move_by_their_own_method():
    assert to_device((Movable(), X), META)[0].device == "meta"
    assert to_device(pack_sequence([X]), META).data.device.type == "meta"


def test_a_class_is_left_alone():
    assert to_device(Batch, META) is Batch


def test_a_gradient_flows_back_through_a_move():
    x = torch.ones(2, requires_grad=True)
    moved = to_device([x * 2], META)[0]
    assert moved.requires_grad
    assert to_device(x, META).grad_fn is not None


class OnHost:
    """What the copier looks at in a tensor; writes down what is done to it."""

    def __init__(self, nbytes, layout=torch.strided, device="cpu"):
        self.nbytes, self.layout, self.device = nbytes, layout, torch.device(device)
        self.done = []

    def pin_memory(self):
        self.done.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.done.append((str(device), non_blocking))
        return self


@pytest.mark.parametrize(
    ("tensor", "is_pinned"),
    [
        (OnHost(2**20), True),
        (OnHost(2**16), False),  # CUDA's own buffer takes it
        (OnHost(2**20, layout=torch.sparse_coo), False),  # cannot be
        (OnHost(2**20, device="cuda:1"), False),  # not on the host
    ],
)
def test_nobody_waits_for_a_copy_to_cuda_and_what_is_large_is_pinned(tensor, is_pinned):
    copied(tensor, torch.device("cuda:0"))
    assert tensor.done == ["pinned"] * is_pinned + [("cuda:0", True)]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_copies_are_waited_for(device):
    tensor = OnHost(2**20)
    copied(tensor, torch.device(device))
    assert tensor.done == [(device, False)]


@pytest.mark.parametrize("nest", NESTS, ids=lambda nest: type(nest).__name__)
@pytest.mark.parametrize("dtype", sorted(HALF, key=str))
def test_what_is_in_half_precision_comes_in_float32_and_the_rest_is_the_same_object(nest, dtype):
    def cast(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) else mapped(value, cast)

    def kinds(value):
        found = set()
        mapped(
            value, lambda item: found.update({item.dtype} if isinstance(item, torch.Tensor) else kinds(item)) or item
        )
        return found

    assert in_float32(nest) is nest
    half = cast(nest)
    assert kinds([half]) == {dtype}
    assert kinds([in_float32(half)]) == {torch.float32}
    assert type(in_float32(half)) is type(nest)
    assert kinds([half]) == {dtype}  # what was given stays as it is


def test_tensors_of_any_nest():
    y = torch.zeros(2)
    batch = {"x": [X, "a", Pair(y, 3)], "packed": pack_sequence([X]), "own": Batch(X, Movable())}
    found = tensors_of(batch)
    assert found[0] is found[-1] is X
    assert found[1] is y
    assert len(found) == 5  # the data of the packed sequence, and its sizes
    assert tensors_of("text") == []


def test_of_what_is_in_shards_the_part_that_is_here_is_given():
    class Sharded:
        def to_local(self):
            return X[:1]

    mine, other = local_parts([Sharded(), X])
    assert torch.equal(mine, X[:1])
    assert other is X
