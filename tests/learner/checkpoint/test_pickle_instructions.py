"""Held to `pickletools.genops`, over pickles that are whole and pickles that are not."""

import pickle
import pickletools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learner.checkpoint.pickle_instructions import ATOMS, VALUES, Atoms, instructions

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
KNOWN = {
    *VALUES,
    *("PROTO", "GLOBAL", "BINPUT", "BINGET", "LONG_BINPUT", "LONG_BINGET", "BINPERSID", "REDUCE", "STOP"),
    *("MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"),
}
CODES = bytes(ord(instruction.code) for instruction in pickletools.opcodes if instruction.name in KNOWN)


def read_by_genops(data):
    """Return names and arguments up to STOP, to what cannot be read, or to an instruction that torch does not write."""
    read = []
    try:
        for instruction, argument, place in pickletools.genops(data):
            if instruction.name not in KNOWN:
                break
            read.append((instruction.name, repr(CONSTANTS.get(instruction.name, argument)), place))
    except ValueError:
        pass
    return read


def read_by_ours(data):
    """Return the same; of numbers that were read at once, without their names and places."""
    read = []
    try:
        for name, argument, place in instructions(data):
            if name == ATOMS:
                values = argument.values()
                assert 0 < len(values) <= argument.at_most()
                read += [
                    ("MARK", "None", place),
                    *((..., repr(value), ...) for value in values),
                    ("APPENDS", "None", ...),
                ]
            elif name not in KNOWN:
                break
            else:
                read.append((name, repr(argument), place))
    except (ValueError, struct.error):
        pass
    return read


def check(data):
    ours, expected = read_by_ours(data), read_by_genops(data)
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert all(a is ... or a == b for a, b in zip(one, other, strict=True)), (one, other)


atoms = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-300, 300) | st.floats() | st.text()
nests = st.recursive(
    atoms,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(atoms, inner, max_size=5),
    max_leaves=30,
)
edits = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.integers(0, 3),
        st.binary(max_size=2) | st.sampled_from([bytes([code]) for code in CODES]),
    ),
    max_size=4,
)


def edited(data, changes):
    """Write over, insert, leave out, or repeat a few bytes."""
    for where, how, new in changes:
        i = where % (len(data) + 1)
        data = data[:i] + (new, new + data[i : i + 1], b"", data[i : i + 9] * 2)[how] + data[i + 1 :]
    return data


@given(nests, edits)
@example([1, 2.5, None, True, 2**40, -1], [])
@example([list(range(3000)), [0.5] * 1001], [])
def test_pickles_whole_and_damaged_are_read_as_genops_reads_them(value, changes):
    check(edited(pickle.dumps(value, 2), changes))


@given(st.lists(st.sampled_from(CODES) | st.integers(0, 255), max_size=60).map(bytes))
def test_anything_is_read_as_genops_reads_it(data):
    check(data)


def test_numbers_of_a_list_are_read_at_once():
    data = pickle.dumps({"a": [*range(300), 0.5, None, True, 2**40]}, 2)
    read = {name: argument for name, argument, _ in instructions(data)}
    assert isinstance(read[ATOMS], Atoms)
    assert read[ATOMS].values() == [*range(300), 0.5, None, True, 2**40]
    assert "APPENDS" not in read


def test_a_cut_off_argument_is_said():
    for data in (b"K", b"M\1", b"\x8a", b"\x8a\5\1", b"X\1", b"X\5\0\0\0abc", b"ctorch\n"):
        with pytest.raises((ValueError, struct.error), match=r"expected|requires a buffer|not found"):
            list(instructions(data))
