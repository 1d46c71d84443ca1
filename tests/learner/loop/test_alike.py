"""What processes have to have in common is compared as plain data, of which each part can be seen to differ."""

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks import CSVLoggerCallback, EarlyStoppingCallback
from learner import Learner
from learner.loop.alike import what_must_be_alike


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.ones(1), torch.ones(1)


def learner(**changes):
    x = torch.ones(8, 3)
    given = {
        "model": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        "dls": {"train": DataLoader(list(zip(x, x, strict=True)), 4)},
        "loss_f": nn.functional.mse_loss,
        "cbs": [EarlyStoppingCallback()],
    }
    return Learner(**{**given, **changes})


def prepared(learn):
    learn._lr_of_fit = learn.lr
    return what_must_be_alike(learn)


def test_what_is_compared():
    assert prepared(learner()) == {
        "callbacks": {"number 0": "EarlyStoppingCallback"},
        "model": {
            "its class": "Sequential",
            "`0.weight`": "(2, 3) torch.float32",
            "`0.bias`": "(2,) torch.float32",
            "`1.weight`": "(2,) torch.float32",
            "`1.bias`": "(2,) torch.float32",
            "`1.running_mean`": "(2,) torch.float32",
            "`1.running_var`": "(2,) torch.float32",
            "`1.num_batches_tracked`": "() torch.int64",
        },
        "loaders": {"train": "DataLoader of 8 samples with 2 batches"},
        "optimizer": {},
        "fit": {"n_epochs": 0, "steps": None, "lr": 0.1, "n_steps": 0},
    }


def test_each_difference_is_seen_in_its_section(tmp_path):
    one, other = learner(), learner()
    x = torch.ones(9, 3)
    changes = {
        "callbacks": learner(cbs=[CSVLoggerCallback(tmp_path / "log.csv")]),
        "model": learner(model=nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))),
        "loaders": learner(dls={"train": DataLoader(list(zip(x, x, strict=True)), 4)}),
        "optimizer": learner(),
        "fit": learner(),
    }
    changes["optimizer"].opt = torch.optim.Adam(changes["optimizer"].model.parameters())
    changes["fit"].n_epochs = 7
    first = prepared(one)
    assert prepared(other) == first
    for section, changed in changes.items():
        theirs = prepared(changed)
        assert [name for name in first if theirs[name] != first[name]] == [section]


def test_weights_need_not_be_the_same():
    one, other = learner(), learner()
    nn.init.zeros_(other.model[0].weight)
    assert prepared(one) == prepared(other)  # they are copied


def test_a_loader_that_is_no_dataloader_and_one_without_a_length():
    batches = [(torch.ones(2, 3), torch.ones(2, 3))]
    found = prepared(learner(dls={"train": batches, "valid": DataLoader(Stream(), 2)}))["loaders"]
    assert found == {"train": "list with 1 batches", "valid": "DataLoader of None samples with None batches"}
