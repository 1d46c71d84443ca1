"""What moves a fingerprint, and what must not."""

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import learner.records.fingerprint as module
from learner.data.loaders import ArrayDataset
from learner.records.fingerprint import fingerprint_of


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Box:
    left: int
    right: int


class Files(Dataset[Any]):
    """What a dataset of files looks like: names, labels, a transform, things that change as it is read."""

    def __init__(self, n: int = 4, **changed: Any) -> None:
        self.root = "somewhere"
        self.samples = [(f"{i}.png", i % 2) for i in range(n)]
        self.targets = [i % 2 for i in range(n)]
        self.transform: Any = nn.Sequential(nn.Dropout())
        self.generator = torch.Generator()
        self._cache = [None] * n
        self.by_number: dict[int, Any] = {}
        self.n_read = 0
        vars(self).update(changed)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> Any:
        self.n_read += 1
        self._cache[i] = self.by_number[i] = torch.rand(2)  # type: ignore[call-overload]
        return self._cache[i], self.targets[i]


class Sized(Dataset[Any]):
    """What shows nothing but its length."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


class AlsoSized(Sized):
    pass


@pytest.mark.parametrize(
    ("data", "other"),
    [
        ([1, 2, 3], [1, 3, 2]),
        ([1, 2, 3], [1, 2]),
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([[None], [None]], [[None, None], []]),
        ([None, 1], [1, None]),
        ([2**70, 1], [2**70, 2]),
        ([b"a"], [b"b"]),
        ([(0, "a"), (1, "b")], [(0, "a"), (1, "c")]),
        ([(0, "a"), (1, "b")], [(0, "a"), (1, "b", 2)]),
        ([{"x": 1}], [{"y": 1}]),
        ([{"x": [1]}], [{"x": [2]}]),
        ([Point(0.0, 1.0), "p"], [Point(0.0, 2.0), "p"]),
        ([Box(0, 1)], [Box(0, 2)]),
        ([Path("a")], [Path("b")]),
        ([object()], [nn.ReLU()]),
        (np.arange(6), np.arange(6).reshape(2, 3)),
        (np.arange(3), np.arange(3, dtype=np.int32)),
        (np.array(["a", "b"]), np.array(["a", "c"])),
        (np.array(["2020"], "datetime64[Y]"), np.array(["2021"], "datetime64[Y]")),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        ([torch.zeros(2), torch.ones(3)], [torch.zeros(2), torch.zeros(3)]),
        ([Image.new("L", (2, 2))], [Image.new("L", (2, 2), 1)]),
        ([Image.new("L", (2, 2))], [Image.new("L", (1, 4))]),
        ({"x": [1], "y": [2]}, {"x": [2], "y": [1]}),
        (TensorDataset(torch.arange(3)), TensorDataset(torch.tensor([0, 1, 3]))),
        (ArrayDataset({"x": [1, 2], "y": [0, 1]}), ArrayDataset({"x": [1, 2], "y": [0, 0]})),
        (Subset(TensorDataset(torch.arange(3)), [0, 1]), Subset(TensorDataset(torch.arange(3)), [1, 0])),
        (Subset(TensorDataset(torch.arange(3)), [0]), Subset(TensorDataset(torch.ones(3)), [0])),
        (ConcatDataset([Files(2), Files(2)]), ConcatDataset([Files(2), Files(3)])),
        (Files(), Files(5)),
        (Sized(3), Sized(4)),
        (Sized(3), AlsoSized(3)),
        (Files(), Files(targets=[1, 1, 1, 1])),
        (Files(), Files(samples=[("x.png", 0)] * 4)),
        (Files(frame=pd.DataFrame({"a": [1], "b": ["x"]})), Files(frame=pd.DataFrame({"a": [1], "b": ["y"]}))),
        (Files(series=pd.Series([1, 2])), Files(series=pd.Series([1, 3]))),
        (Files(arrays={"x": np.zeros(9)}), Files(arrays={"x": np.ones(9)})),
        (Files(parts=[np.zeros(9)]), Files(parts=[np.ones(9)])),
        (Files(inner=TensorDataset(torch.zeros(9))), Files(inner=TensorDataset(torch.ones(9)))),
    ],
)  # fmt: skip
def test_another_content_has_another_fingerprint(data: Any, other: Any) -> None:
    assert fingerprint_of(data) != fingerprint_of(other)


@pytest.mark.parametrize(
    ("data", "other"),
    [
        ([0, 1, 2], np.arange(3)),
        ([0, 1, 2], torch.arange(3)),
        ([0, 1, 2], range(3)),
        ([0.5, 1.5], np.array([0.5, 1.5])),
        (["a", "b"], np.array(["a", "b"])),
        (["a", "b"], np.array(["a", "b"], object)),
        (np.array([1, 2], "<i4"), np.array([1, 2], ">i4")),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (torch.ones(2), torch.ones(2, requires_grad=True)),
        (torch.ones(4)[::2], torch.ones(2)),
        ({"x": [1], "y": [2]}, {"y": [2], "x": [1]}),
        ([object()], [object()]),
        (Files(), Files()),
        (Files(), Files(root="elsewhere", transform=nn.ReLU())),
    ],
)
def test_equal_content_has_one_fingerprint_whatever_holds_it(data: Any, other: Any) -> None:
    assert fingerprint_of(data) == fingerprint_of(other)


@pytest.mark.parametrize(
    "value", [torch.tensor(1), torch.tensor(1.0, dtype=torch.bfloat16), np.float32(1), np.zeros((0, 3))]
)
def test_scalars_and_empty_arrays_have_one(value: Any) -> None:
    assert len(fingerprint_of([value, "x"])) == 32


def test_conjugates_and_sparse_tensors_have_one() -> None:
    x = torch.tensor([1 + 2j])

    assert fingerprint_of([x.conj(), ""]) == fingerprint_of([torch.tensor([1 - 2j]), ""]) != fingerprint_of([x, ""])
    assert len(fingerprint_of([torch.eye(2).to_sparse()])) == 32


def test_reading_samples_does_not_move_it_and_it_reads_none() -> None:
    dataset = Files()
    before = fingerprint_of(dataset)
    assert dataset.n_read == 0

    for i in range(len(dataset)):
        dataset[i]

    assert fingerprint_of(dataset) == before


def test_no_random_generator_moves() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]

    fingerprint_of(Files())

    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]


def test_a_dataset_that_knows_its_own_is_believed() -> None:
    assert fingerprint_of(Files(fingerprint="abc")) == "abc"
    assert fingerprint_of(Files(_fingerprint="def")) == "def"
    inside, other = (Subset(Files(fingerprint=known), [0]) for known in ("abc", "def"))
    assert fingerprint_of(inside) != fingerprint_of(other)
    assert fingerprint_of(Files(hf=Known("abc"))) != fingerprint_of(Files(hf=Known("def")))


class Known:
    """A dataset that is none of torch's, and keeps its fingerprint as the `datasets` library does."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint


def test_a_dataset_that_holds_itself_comes_to_an_end() -> None:
    dataset = Files()
    dataset.transform = dataset

    assert len(fingerprint_of(dataset)) == 32


def test_of_a_very_large_array_blocks_are_read_over_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 160)
    monkeypatch.setattr(module, "BLOCK", 16)
    array = np.zeros(80)  # 640 bytes: of 40 blocks, every fourth
    before = fingerprint_of(array)
    array[2] = 1
    assert fingerprint_of(array) == before
    array[72] = 1
    assert fingerprint_of(array) != before


def test_an_array_up_to_that_size_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    prints = {fingerprint_of(np.eye(7)[i]) for i in range(7)}

    assert len(prints) == 7


def test_it_is_the_same_in_another_process() -> None:
    code = (
        "from learner.records.fingerprint import fingerprint_of\n"
        "print(fingerprint_of({'b': ['x', 'y'], 'a': [(1, {'k': None}), (2, {'j': 2.5})]}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}

    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert other.stdout.strip() == fingerprint_of({"b": ["x", "y"], "a": [(1, {"k": None}), (2, {"j": 2.5})]})
