import gc
import pickle
import pickletools
import zipfile
from collections import Counter
from io import BytesIO

import pytest
import torch

from learner.checkpoint.pickle_scan import RefusedError, check_pickle
from learner.checkpoint.plain import plain

GETS = b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
HOOKS = b"\x89ccollections\nOrderedDict\n)RtR"
KEY = b"X\1\0\0\0a"


def entry(value: bytes) -> bytes:
    """Return the pickle of {"a": value}."""
    return b"\x80\2}" + KEY + value + b"s."


def tensor(key=b"0", location=b"cpu", numel=b"K\4", offset=b"K\0", size=b"K\4\x85", stride=b"K\1\x85", end=HOOKS):
    """Return the instructions that make a tensor of the first four numbers in `data/0`."""
    place = key + b"X" + len(location).to_bytes(4, "little") + location + numel + b"tQ"
    return GETS + place + offset + size + stride + end


def pickled_by_torch(state) -> tuple[bytes, dict[str, int]]:
    file = BytesIO()
    torch.save(plain(state), file)
    with zipfile.ZipFile(file) as archive:
        sizes = {entry.filename.removeprefix("archive/"): entry.file_size for entry in archive.infolist()}
        return archive.read("archive/data.pkl"), sizes


SIZES = {"data/0": 16, "data/1": 16}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": [1, 2.5, None, True, "a", b"a", b"a", 1j, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), 2**40, -1]},
        {"s": {1, "a", (1, None)}, "c": Counter("aab"), (1, "a"): {}, None: 0, 1.5: 0, True: 0},
        {"t": torch.ones(2, 3), "h": torch.ones(3, dtype=torch.uint16), "e": torch.empty(0), "0": torch.tensor(1)},
        {"tied": [torch.ones(2)] * 2, "l": [[[[]]]] * 2},
        {str(i): "x" * i for i in range(300)},
    ],
    ids=lambda state: str(list(state))[:20],
)
def test_what_torch_writes_of_plain_data_passes(state):
    check_pickle(*pickled_by_torch(state))


def test_the_tensor_of_these_tests_passes():
    check_pickle(entry(b"c__builtin__\nset\n]K\1\x85a\x85R"), SIZES)
    check_pickle(entry(tensor()), SIZES)
    check_pickle(entry(tensor(size=b"K\0K\4\x86", stride=b"K\4K\1\x86", numel=b"K\0", key=b"2")), {"data/2": 0})


class Call:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def test_nothing_but_plain_data_is_named(tmp_path):
    import os
    import subprocess

    marker = tmp_path / "marker"
    calls = [
        Call(os.system, f"touch {marker}"),
        Call(eval, f"open({str(marker)!r}, 'w')"),
        Call(exec, f"open({str(marker)!r}, 'w')"),
        Call(subprocess.Popen, ["touch", str(marker)]),
        Call(open, str(marker), "w"),
        Call(getattr, "a", "upper"),
        Call(torch.load, "file"),
        Call(torch.storage._load_from_bytes, b"abc"),
        Call(bytearray, 10**12),
        Call(torch.Tensor, 10**6, 10**6),
        Call(torch.Size, [1]),
        Call(torch.nn.Parameter, torch.ones(1)),
        Call(pickle.loads, b"N."),
        Call(__import__, "os"),
    ]
    for call in calls:
        with pytest.raises(RefusedError, match=r"^names '.*', which is not plain data$"):
            check_pickle(pickle.dumps({"a": call}, 2), {})
        if call.reduced[0] is not torch.nn.Parameter:
            with pytest.raises(RefusedError, match=r"^has (the instruction|a pickle of protocol)"):
                check_pickle(pickle.dumps({"a": call}, 4), {})
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(numel=b"J\0\0\0\x7f"), "claims 2130706432 numbers in 16 bytes"),
        (tensor(numel=b"K\3"), "claims 3 numbers in 16 bytes"),
        (tensor(numel=b"\x88"), "claims True numbers in 16 bytes"),
        (tensor(key=b"9"), "claims 4 numbers in None bytes"),
        (tensor(location=b"cuda"), "has tensors in an odd place '0'"),
        (b"(" + tensor() + b"l", "instruction LIST"),
        (b"](" + tensor() + tensor() + b"e", "has tensors in an odd place '0'"),
        (tensor(stride=b"K\0\x85", size=b"\x8a\5\0\0\0\0\1\x85"), "claims a tensor of 4294967296 numbers in 16 bytes"),
        (tensor(size=b"K\2\x85"), "claims a tensor of 2 numbers in 16 bytes"),
        (tensor(stride=b"K\0\x85", size=b"K\5\x85"), "claims a tensor of 5 numbers in 16 bytes"),
        (tensor(offset=b"K\1"), "claims a tensor of 4 numbers in 16 bytes"),
        (tensor(stride=b"K\2\x85"), "claims a tensor of 4 numbers in 16 bytes"),
        (tensor(offset=b"J\xff\xff\xff\xff"), "odd shape"),
        (tensor(size=b"J\xfc\xff\xff\xff\x85", stride=b"J\xff\xff\xff\xff\x85"), "odd shape"),
        (tensor(size=b"G?\xf0\0\0\0\0\0\0\x85"), "odd shape"),
        (tensor(size=b"(" + b"K\1" * 65 + b"t", stride=b"(" + b"K\1" * 65 + b"t"), "odd shape"),
        (tensor(end=HOOKS.replace(b"\x89", b"\x88")), "gradients or hooks"),
        (tensor(end=b"\x89}tR"), "gradients or hooks"),
        (tensor(end=b"\x89NtR"), "gradients or hooks"),
        (tensor(end=HOOKS[:-2] + b"ctorch\nuint16\ntR"), "odd storage"),
        (tensor(end=HOOKS[:-2] + b"}tR"), "odd storage"),
        (b"ctorch\nuint16\n", "plain data alone"),
        (b"ccollections\nOrderedDict\n", "plain data alone"),
        (b"ccollections\nOrderedDict\n)R", "plain data alone"),
        (b"](ctorch\nFloatStorage\ne", "plain data alone"),
        (GETS + b"0X\3\0\0\0cpuK\4tQ", "pop from empty"),
        (b"ccollections\nOrderedDict\n]\x85R", "takes 1 positional argument"),
        (b"ctorch\nuint16\n)R", "calls what is no function"),
        (KEY + b")R", "calls what is no function"),
        (b"ccollections\nOrderedDict\n]R", "calls what is no function"),
        (b"c_codecs\nencode\n" + KEY + b"X\4\0\0\0zlib\x86R", "odd bytes"),
        (b"c_codecs\nencode\nK\1" + b"X\6\0\0\0latin1\x86R", "has no len"),
        (b"c_codecs\nencode\n]" + b"X\6\0\0\0latin1\x86R", "has no len|odd bytes"),
        (b"c__builtin__\nset\n}\x85R", "odd set"),
        (b"c__builtin__\nset\n]K\1\x85\x85a\x85R", "a key that is not plain data"),
        (b"c__builtin__\ncomplex\nK\1K\1\x86R", "odd complex"),
        (b"c__builtin__\ncomplex\n" + KEY + b"\x85R", "missing 1 required"),
        (b"ccollections\nCounter\n]\x85R", "odd Counter"),
        (b"ccollections\nCounter\n}" + KEY + b"ctorch\nuint16\ns\x85R", "odd Counter"),
        (b"}K\1\x85\x85K\1s", "a key that is not plain data"),
        (b"}(" + b"K\1" * 17 + b"tK\1s", "a key that is not plain data"),
        (b"}(K\1K\1K\1u", "a key without a value"),
        (b"}]K\1s", "a key that is not plain data"),
        (b"}K\1a", "adds to what is no list"),
        (b"]K\1K\1s", "adds to what is no dict"),
        (b"K\1K\1a", "adds to what is no list"),
        (b"]q\0h\0a", "uses a container twice"),
        (b"K\1\x85q\0h\0\x86", "uses a container twice"),
        (b"h\7", "7"),
        (b"](K\1", "plain data alone|pop from empty"),
        (b"(a", "pop from empty"),
        (b"t", "pop from empty"),
        (b"]" * 101 + b"a" * 100, "nests more than 100 deep"),
        (b")" + b"\x85" * 10**5, "nests more than 100 deep"),
        (b"U\1a", "instruction SHORT_BINSTRING"),
        (b"K\1" + b"2", "instruction DUP"),
        (b"K\1" + b"0", "instruction POP"),
        (b"ctorch\nTensor\n)\x81", "names 'torch.Tensor'"),
        (b"}}b", "instruction BUILD"),
        (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
        (b"\x8a\xff", "expected 255|not enough"),
        (b"\x80\4N", "protocol 4"),
        (b"c\xff\n\n", "codec can't decode|names"),
    ],
)
def test_what_is_not_to_be_believed_is_refused(value, message):
    with pytest.raises(Exception, match=message):
        check_pickle(entry(value), SIZES)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\2", b"N.", b"\x80\2].", b"\x80\2}", b"\x80\2}.N.", b"\x80\2}}.", b"\x80\2(}.", b"."]
)
def test_what_is_no_whole_pickle_of_a_dict_is_refused(data):
    with pytest.raises(Exception, match=r"plain data alone|exhausted|unpack|not enough|no newline"):
        check_pickle(data, {})


def test_texts_do_not_grow_by_being_repeated():
    text = b"X\xe8\3\0\0" + b"x" * 1000
    first = b"c_codecs\nencode\nq\1" + text + b"q\2X\6\0\0\0latin1q\3\x86R"
    with pytest.raises(RefusedError, match="odd bytes"):
        check_pickle(entry(b"](" + first + b"h\1h\2h\3\x86R" * 9 + b"e"), {})


def test_a_memo_of_any_index_takes_no_memory():
    check_pickle(entry(b"Nr\xff\xff\xff\xff"), {})


def test_all_instructions_of_torch_are_known():
    data, sizes = pickled_by_torch({"a": torch.ones(2), "b": [1.5, (1, 2), {3}, 1j, b"x"], "c": "a"})
    names = {instruction.name for instruction, _, _ in pickletools.genops(data)}
    assert {"BINPERSID", "REDUCE", "GLOBAL", "BINPUT", "BINGET", "MARK", "TUPLE"} <= names
    check_pickle(data, sizes)


def colliding(i):
    """Return an int that has the hash of all others that this gives."""
    return i * (2**61 - 1)


def long(i):
    data = i.to_bytes(i.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize("n_at_once", [1, 300])
def test_keys_that_were_made_to_have_one_hash_are_refused(n_at_once):
    keys = [long(colliding(i)) + b"N" for i in range(1, 301)]
    items = b"".join(b"(" + b"".join(keys[i : i + n_at_once]) + b"u" for i in range(0, len(keys), n_at_once))
    with pytest.raises(RefusedError, match="many keys that were made to have the same hash"):
        check_pickle(entry(b"}" + items), {})
    check_pickle(entry(b"}(" + b"".join(long(i) + b"N" for i in range(1, 301)) + b"u"), {})


def test_members_and_tuples_that_have_one_hash_are_refused():
    members = b"".join(long(colliding(i)) for i in range(1, 301))
    with pytest.raises(RefusedError, match="many keys that were made to have the same hash"):
        check_pickle(entry(b"c__builtin__\nset\n](" + members + b"e\x85R"), {})
    tuples = b"".join(b"K\1" + long(colliding(i)) + b"\x86N" for i in range(1, 301))
    with pytest.raises(RefusedError, match="many keys that were made to have the same hash"):
        check_pickle(entry(b"}(" + tuples + b"u"), {})


@pytest.mark.parametrize(
    ("letter", "message"), [(b"N", "has more than [0-9]+ instructions"), (b"]", "more lists, tuples and dicts than")]
)
def test_a_byte_each_is_too_little_for_many_of_them(monkeypatch, letter, message):
    monkeypatch.setattr("learner.checkpoint.pickle_scan._N_INSTRUCTIONS", 1000)
    monkeypatch.setattr("learner.checkpoint.pickle_scan._N_CONTAINERS", 100)
    check_pickle(entry(b"](" + letter * 90 + b"e"), {})
    with pytest.raises(RefusedError, match=message):
        check_pickle(entry(b"](" + letter * 5000 + b"e"), {})


def test_the_garbage_collector_is_on_again_whatever_came():
    check_pickle(entry(b"N"), {})
    assert gc.isenabled()
    with pytest.raises(RefusedError, match="instruction BUILD"):
        check_pickle(entry(b"}}b"), {})
    assert gc.isenabled()
    gc.disable()
    try:
        check_pickle(entry(b"N"), {})
        assert not gc.isenabled()
    finally:
        gc.enable()
