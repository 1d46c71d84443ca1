"""Which samples a batch holds, of each kind of loader; each sample is its own number."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks import CheckpointCallback, DeviceCallback, EpochLengthCallback
from learner import Learner, LearnerError, Loaders
from learner.checkpoint.losses import LossFile
from learner.replay import without
from tests.resuming import seed_all


def numbers(n, batch_size, first=0, **options):
    x = torch.arange(float(first), first + n)[:, None]
    return DataLoader(TensorDataset(x, x / 100), batch_size, shuffle=True, **options)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor([float(i)]), torch.tensor([0.0])) for i in range(22)])


class Stateful:
    """Goes on from a state of its own."""

    def __init__(self):
        self.i = 0

    def state_dict(self):
        return {"i": self.i}

    def load_state_dict(self, state):
        self.i = state["i"]

    def __iter__(self):
        while self.i < 6:
            self.i += 1
            yield torch.full((2, 1), float(self.i)), torch.zeros(2, 1)
        self.i = 0


class Both(nn.Module):
    """Takes a pair, or a dict of pairs by the name of the loader."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, **batches):
        return torch.cat([self.layer(x / 100) - y for x, y in batches.values()])


def zipped():
    return Loaders.zipped(few=numbers(5, 2, first=1000), many=numbers(22, 4))


def learner(kind, folder):
    seed_all(0)
    loader = {
        "zipped": zipped,
        "zipped in rounds": zipped,
        "rounds": lambda: numbers(22, 4),
        "rounds with workers": lambda: numbers(22, 4, num_workers=1),
        "stateful": Stateful,
        "stream": lambda: DataLoader(Stream(), 4),
        "zipped streams": lambda: Loaders.zipped(a=DataLoader(Stream(), 4), b=[(torch.ones(2, 1),) * 2] * 3),
    }[kind]()
    cbs = [CheckpointCallback(folder, every=5, keep="all"), DeviceCallback()]
    cbs += [EpochLengthCallback(train=4)] if "rounds" in kind else []
    if "zipped" in kind:
        return Learner(Both(), {"train": loader}, lambda preds: preds.square().mean(), cbs=cbs)
    return Learner(nn.Linear(1, 1), {"train": loader}, nn.functional.mse_loss, 1e-4, cbs=cbs)


@pytest.mark.parametrize("kind", ["zipped", "zipped in rounds", "rounds", "rounds with workers"])
def test_they_are_known_in_rounds_and_of_loaders_side_by_side(kind, tmp_path):
    """In the middle of a pass over the data, over the end of one, and of one that begins again beside a longer one."""
    learner(kind, tmp_path).fit(4)
    learn = learner(kind, tmp_path)
    for step in (2, 7, 13):
        with learn.rewind(tmp_path, step=step) as then:
            for _ in range(3):
                assert then.why_no_ids is None
                ids, batch = (then.ids, then.batch) if "zipped" in kind else ({"": then.ids}, {"": then.batch})
                firsts = {"few": 1000, "many": 0, "": 0}
                for name, (x, _) in batch.items():
                    assert (ids[name] + firsts[name]).tolist() == x.flatten().tolist()
                then.advance()
            if kind == "zipped":
                with pytest.raises(
                    LearnerError, match=r"must have a batch of one loader, got one of \['few', 'many'\]"
                ):
                    then.change(without(3))


def test_they_are_named_where_losses_differ(tmp_path):
    learner("zipped", tmp_path).fit(2)
    file = LossFile(tmp_path)
    losses = file.read()
    file.write(0, [*losses[:6], losses[6] + 1, *losses[7:]])
    with (
        pytest.warns(RuntimeWarning, match=r"That batch holds samples \d, \d of 'few', \d+, \d+, \d+, \d+ of 'many': "),
        learner("zipped", tmp_path).rewind(tmp_path, step=8),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("stateful", "a Stateful goes on from a state of its own"),
        ("stream", "its dataset is a stream"),
        ("zipped streams", "its dataset is a stream"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*the rest of a pass may differ", "ignore:.*must give the same batches again")
def test_where_nobody_knows_them_the_reason_is_said(kind, why, tmp_path):
    learner(kind, tmp_path).fit(2)
    with learner(kind, tmp_path).rewind(tmp_path, step=7) as then:
        assert then.ids is None
        assert why in then.why_no_ids
        with pytest.raises(
            LearnerError, match=f"whose samples are known, which those of this loader are not, since .*{why}"
        ):
            then.change(without(3))
        then.advance(np.int64(2))
        assert then.ids is None
