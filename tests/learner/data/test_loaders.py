"""Named loaders: forms they may be given in, roles, and the two ways to make them."""

import copy
import pickle
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from learner import Loaders
from learner.data.loaders import role_of
from learner.data.wrapper import length_of

TRAIN, VALID = [1, 2], [3]


@pytest.mark.parametrize(
    "dls",
    [
        {"train": TRAIN, "valid": VALID},
        OrderedDict(train=TRAIN, valid=VALID),
        (TRAIN, VALID),
        [TRAIN, VALID],
        SimpleNamespace(train=TRAIN, valid=VALID),
        Loaders({"train": TRAIN, "valid": VALID}),
    ],
)
def test_of_takes_every_form(dls):
    loaders = Loaders.of(dls)
    assert list(loaders.items()) == [("train", TRAIN), ("valid", VALID)]
    assert (loaders.train, loaders["valid"]) == (TRAIN, VALID)


def test_an_object_may_have_train_alone():
    assert list(Loaders.of(SimpleNamespace(train=TRAIN))) == ["train"]


def test_order_is_that_given():
    names = ["valid2", "train2", "infer", "train", "valid"]
    assert list(Loaders(dict.fromkeys(names, TRAIN))) == names


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"),
        ("train2", "train"),
        ("training", "train"),
        ("valid_b", "valid"),
        ("infer", "infer"),
        ("val", "valid"),
        ("val_b", "valid"),
        ("eval", "valid"),
        ("validation", "valid"),
        ("test_b", "test"),
    ],
)
def test_the_start_of_a_name_says_what_a_loader_is_for(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize("name", ["dev", "Train", "", "my_train", "my_test", 3])
def test_a_name_without_a_role_is_refused(name):
    with pytest.raises(ValueError, match=r"a loader's name must start with 'train'.*'valid'.*'infer'.*'test'"):
        Loaders({"train": TRAIN, name: VALID})


@pytest.mark.parametrize("loader", [torch.zeros(30, 10), np.zeros((30, 10))])
def test_a_tensor_or_array_is_one_batch_and_no_loader_of_its_rows(loader):
    with pytest.raises(TypeError, match=r"`dls\['infer'\]` must be .* got .*\(30, 10\) float.*; pass `\[x\]` for one"):
        Loaders({"infer": loader})


@pytest.mark.parametrize("loader", [None, 3, "train.csv", DataLoader])
def test_what_is_no_iterable_of_batches_is_refused(loader):
    with pytest.raises(TypeError, match=r"`dls\['valid'\]` must be an iterable of batches"):
        Loaders({"train": TRAIN, "valid": loader})


@pytest.mark.parametrize(
    "dls", [None, 3, (TRAIN,), (TRAIN, VALID, VALID), DataLoader([1]), SimpleNamespace(valid=VALID)]
)
def test_what_are_no_loaders_is_refused(dls):
    with pytest.raises(TypeError, match="`dls` must be a mapping of names to loaders, a pair"):
        Loaders.of(dls)


def test_no_loader_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one loader"):
        Loaders({})


def test_a_missing_loader_is_named_with_those_there_are():
    loaders = Loaders({"train": TRAIN, "valid": VALID})
    with pytest.raises(KeyError, match="no loader 'test', only 'train', 'valid'"):
        loaders["test"]
    with pytest.raises(AttributeError, match="no attribute or loader 'test'"):
        loaders.test


def test_loaders_copy_and_pickle_and_say_what_they_hold():
    loaders = Loaders({"train": TRAIN, "infer": (i for i in ())})
    assert repr(loaders) == "Loaders(train: 2 batches, infer: None batches)"
    loaders = Loaders({"train": TRAIN})
    assert copy.deepcopy(loaders).train == pickle.loads(pickle.dumps(loaders)).train == TRAIN


def test_length_is_none_where_there_is_none():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert length_of([1, 2]) == 2
    assert length_of(i for i in range(3)) is None
    assert length_of(DataLoader(Stream())) is None


# -- from_datasets ------------------------------------------------------------------------------------------------


def test_from_datasets_shuffles_what_trains_and_nothing_else():
    data = TensorDataset(torch.arange(50))
    dls = Loaders.from_datasets(train=data, train2=data, valid=data, infer=data, batch_size=20)
    assert [type(dl.sampler) is RandomSampler for dl in dls.values()] == [True, True, False, False]
    assert [len(batch[0]) for batch in dls.train] == [20, 20, 10]
    assert torch.cat([batch[0] for batch in dls.valid]).tolist() == list(range(50))
    assert sorted(torch.cat([batch[0] for batch in dls.train]).tolist()) == list(range(50))


def test_from_datasets_passes_options_on():
    generator = torch.Generator()
    dls = Loaders.from_datasets(train=range(10), batch_size=4, drop_last=True, shuffle=False, generator=generator)
    assert [batch.tolist() for batch in dls.train] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert dls.train.generator is generator


def test_from_datasets_takes_a_stream():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(5))

    dls = Loaders.from_datasets(train=Stream(), batch_size=2)
    assert [batch.tolist() for batch in dls.train] == [[0, 1], [2, 3], [4]]


def test_from_datasets_wants_names():
    with pytest.raises(ValueError, match=r"`datasets` must be given by loader name, got \['dev'\]"):
        Loaders.from_datasets(dev=range(3))


# -- from_arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, list])
def test_from_arrays_takes_arrays_of_every_kind(make):
    x, y = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 2]
    dls = Loaders.from_arrays(train=(make(x), make(y)), valid=(make(x), make(y)), infer=make(x), batch_size=2)
    (x1, y1), (x2, _) = list(dls.valid)
    assert (x1.tolist(), y1.tolist(), x2.tolist()) == (x[:2], [0, 1], x[2:])
    assert (x1.dtype, y1.dtype) == (torch.float32, torch.int64)
    assert torch.cat(list(dls.infer)).tolist() == x
    rows = torch.cat([torch.cat([x, y[:, None]], 1) for x, y in dls.train])
    assert sorted(rows.tolist()) == [[*row, float(label)] for row, label in zip(x, y, strict=True)]


def test_from_arrays_float64_becomes_what_models_take():
    x = np.zeros((3, 2))
    (batch,) = Loaders.from_arrays(infer=x).infer
    assert (x.dtype, batch.dtype) == (np.float64, torch.float32)


@pytest.mark.parametrize("arrays", [([1.0, 2.0], [1]), ([], [])])
def test_from_arrays_wants_one_length(arrays):
    with pytest.raises(ValueError, match=r"`train` must be arrays of one length, at least 1, got lengths"):
        Loaders.from_arrays(train=arrays)


def test_from_arrays_can_be_sent_to_workers(dls):
    again = pickle.loads(pickle.dumps(dls.valid))
    assert all(
        torch.equal(a, b) for one, two in zip(again, dls.valid, strict=True) for a, b in zip(one, two, strict=True)
    )
