import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.plain import CLASS_DTYPES, NAMED_DTYPES, plain

ATOMS = [
    None,
    True,
    0,
    -(2**1999),
    1.5,
    float("inf"),
    2j,
    "text",
    "\udc80",
    b"",
    b"\0\xff",
    (),
    [],
    {},
    set(),
    Counter(),
]


@pytest.mark.parametrize("value", ATOMS, ids=repr)
def test_what_is_plain_stays_as_it_is(value):
    again = plain(value)
    assert again == value
    assert type(again) is type(value)


def test_containers_are_new_ones():
    inner = [1]
    again = plain({"a": inner})
    inner.append(2)
    assert again == {"a": [1]}


def test_an_ordered_dict_a_size_and_a_counter_are_brought_to_plain_data():
    again = plain([OrderedDict(b=1, a=2), torch.ones(2, 3).shape, Counter("aab")])
    assert [type(item) for item in again] == [dict, tuple, Counter]
    assert again == [{"b": 1, "a": 2}, (2, 3), {"a": 2, "b": 1}]
    assert list(again[0]) == ["b", "a"]


class Color(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Record:
    x: int = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1), r"got numpy.float64; do float\(...\)\."),
        (np.int64(1), r"got numpy.int64; do int\(...\)\."),
        (np.bool_(True), r"got numpy.bool(_)?; do bool\(...\)\."),
        (np.str_("a"), r"got numpy.str_; do str\(...\)\."),
        (np.zeros(2), r"got numpy.ndarray; do torch.from_numpy\(...\)\."),
        (Color.RED, r"got .*Color; keep its .value\."),
        (Record(), r"got .*Record; do dataclasses.asdict\(...\)\."),
        (Path("a"), r"got pathlib\S+; do str\(...\)\."),
        (torch.float32, r"got torch.dtype; do str\(...\)\."),
        (torch.device("cpu"), r"got torch.device; do str\(...\)\."),
        (bytearray(b"a"), r"got bytearray; do bytes\(...\)\."),
        (defaultdict(int), r"got collections.defaultdict; do dict\(...\)\."),
        (frozenset("a"), r"got frozenset; do set\(...\)\."),
        (range(3), r"got range; do list\(...\)\."),
        (namedtuple("Pair", "x y")(1, 2), r"got .*Pair; do list\(...\)\."),
        (deque([1]), r"got collections.deque; .*list\(...\)\."),
        (lambda: None, r"got function; keep the numbers"),
        (nn.Linear(1, 1), r"got torch.nn.modules.linear.Linear; keep the numbers"),
        (torch.Generator(), r"got torch.*Generator; keep the numbers"),
        (torch, r"got module; keep the numbers"),
        (int, r"got type; keep the numbers"),
        (2**2000, r"got an int of 2001 bits; at most 2000 fit\."),
        ({(1, (2,)): 1}, r"got the key or member \(1, \(2,\)\) \(tuple\); use str, int"),
        ({tuple(range(17)): 1}, r"got the key or member .* \(tuple\); use str, int"),
        ({Color.RED: 1}, r"got the key or member .*Color\); use str, int"),
        ({np.float64(1)}, r"got the key or member .*numpy.float64\); use str, int"),
        ({2**2000: 1}, r"got a key or member of more than 2000 bits\."),
        (torch.ones(2, 2).to_sparse(), r"got a tensor that is torch.sparse_coo; keep its indices and values\."),
        (torch.ones(2, device="meta"), r"got a tensor on the meta device; it has no values\."),
        (nn.LazyLinear(1).weight, r"got a tensor of .*UninitializedParameter, which has no values yet; run a batch"),
        (torch.zeros(2, dtype=torch.uint8).view(torch.bits8), r"got a tensor of torch.bits8; keep its integers"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_plain_is_named_with_its_place(value, message):
    with pytest.raises(TypeError, match=r"^`state\['callbacks'\]\['Stop'\]\[1\]` must be plain data, " + message):
        plain({"callbacks": {"Stop": (0, value)}})


def test_quantized_and_nested_tensors_are_refused():
    with pytest.warns(UserWarning, match="quantize"):
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"`x\[0\]` must be plain data, got a tensor of torch.qint8; keep its integers"):
        plain([quantized], "x")
    nested = torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"`x\[0\]` must be plain data, got a tensor of .*NestedTensor"):
        plain([nested], "x")


def test_a_nest_that_holds_itself_is_refused():
    value = {"a": []}
    value["a"].append(value)
    with pytest.raises(
        TypeError, match=r"^`state\['a'\]\[0\].*got a nest of more than 100 levels; does it hold itself"
    ):
        plain(value)


def test_a_hundred_levels_fit():
    value = []
    for _ in range(99):
        value = [value]
    assert plain(value) == value
    with pytest.raises(TypeError, match="a nest of more than 100 levels"):
        plain([value])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", [*CLASS_DTYPES.values(), *NAMED_DTYPES], ids=str)
def test_a_tensor_of_every_number_type_is_plain(dtype):
    tensor = torch.arange(48, dtype=torch.uint8).view(torch.bool if dtype is torch.bool else torch.uint8)
    tensor = tensor.view(dtype) if dtype is not torch.bool else tensor % 2 == 0
    for copy in (False, True):
        again = plain(tensor, copy=copy)
        assert again.dtype is dtype
        assert torch.equal(again.view(torch.uint8), tensor.view(torch.uint8))


class Marked(torch.Tensor):
    pass


def test_a_tensor_comes_without_gradient_class_and_attributes():
    weight = nn.Parameter(torch.ones(2))
    weight.note = object()
    for tensor in (weight, weight * 2, torch.ones(2).as_subclass(Marked)):
        again = plain(tensor)
        assert type(again) is torch.Tensor
        assert not again.requires_grad
        assert vars(again) == {}
    assert plain(weight).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).T,
        torch.arange(6.0)[::2],
        torch.arange(6.0)[1:3],
        torch.ones(()).expand(3, 2),
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3, dtype=torch.complex64).conj().imag,
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.ones(4, 5, 6).as_strided((2, 2), (1, 1)),
    ],
    ids=lambda t: f"{tuple(t.shape)}-{t.stride()}",
)
@pytest.mark.parametrize("copy", [False, True])
def test_a_view_comes_without_the_memory_that_it_does_not_show(tensor, copy):
    again = plain(tensor, copy=copy)
    assert torch.equal(again, tensor)
    assert not again.is_conj()
    assert not again.is_neg()
    assert again.untyped_storage().nbytes() == again.numel() * again.element_size()


def test_the_order_in_memory_stays():
    tensor = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert plain(tensor).stride() == plain(tensor, copy=True).stride() == tensor.stride()


@pytest.mark.parametrize("copy", [False, True])
def test_tied_tensors_stay_tied_and_others_of_one_memory_part(copy):
    whole = torch.arange(4.0)
    a, b, c, d = plain([whole, nn.Parameter(whole), whole.view(2, 2), whole.view(torch.int32)], copy=copy)
    assert a is b
    assert torch.equal(c, whole.view(2, 2))
    assert torch.equal(d, whole.view(torch.int32))
    assert len({t.untyped_storage().data_ptr() for t in (a, c, d)}) == 3


def test_empty_tensors_are_not_taken_for_tied():
    a, b = plain([torch.empty(0), torch.empty(0)])
    assert a is not b


def test_a_copy_is_one():
    tensor = torch.ones(2)
    kept, copied = plain([tensor]), plain([tensor], copy=True)
    tensor.zero_()
    assert kept[0].tolist() == [0, 0]
    assert copied[0].tolist() == [1, 1]


def test_a_tuple_that_is_used_twice_is_written_as_two(tmp_path):
    """As key, member and value: a reader takes each container once, and what can't be read must not be written."""
    key = (1, "train")
    state = {"sums": {key: 1.0}, "counts": {key: 1}, "seen": {key}, "last": key, "all": [key, key, (), ()]}
    write_checkpoint(tmp_path / "a.pt", state)
    assert read_checkpoint(tmp_path / "a.pt") == state
