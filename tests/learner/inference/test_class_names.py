"""Where names of classes come from."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from learner import Callback, Learner
from learner.inference.class_names import checked_names, class_names
from learner.records import CategoricalLabel, Table


class Named(TensorDataset):
    classes = ("cat", "dog")


def learner(dataset, cbs=(), model=None):
    return Learner(model or nn.Linear(2, 2), {"train": [0], "valid": DataLoader(dataset)}, cbs=cbs)


DATA = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)


def named_callback():
    cb = Callback()
    cb.classes = ["a", "b"]
    return cb


def named_model(names):
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(id2label=names)
    return model


@pytest.mark.parametrize(
    ("learn", "names"),
    [
        (learner(TensorDataset(*DATA)), None),
        (learner(Named(*DATA)), ("cat", "dog")),
        (learner(Subset(Named(*DATA), [0, 1])), ("cat", "dog")),
        (learner(Named(*DATA), named_callback()), ("a", "b")),
        (
            learner(Table.from_dict({"label": [0]}, column_schemas={"label": CategoricalLabel("label", ["x", "y"])})),
            ("x", "y"),
        ),
        (learner(TensorDataset(*DATA), model=named_model({1: "no", 0: "yes"})), ("yes", "no")),
        (learner(TensorDataset(*DATA), model=named_model({0: "LABEL_0", 1: "LABEL_1"})), None),
    ],
)
def test_names_are_found_where_they_are(learn, names):
    assert class_names(learn, "valid", 2) == names
    assert class_names(learn, "train", 2) == names  # the other loader knows them


def test_names_of_another_number_of_classes_are_of_something_else():
    assert class_names(learner(Named(*DATA)), "valid", 3) is None


def test_names_that_a_person_gives():
    assert checked_names({1: "b", 0: "a"}, 2) == ("a", "b")
    with pytest.raises(ValueError, match="`classes` must be a name for each of the 3 classes, got 2"):
        checked_names(["a", "b"], 3)
    for odd in ("ab", [1, 2], 3):
        with pytest.raises(TypeError, match="`classes` must be names by class id, got"):
            checked_names(odd, 2)
