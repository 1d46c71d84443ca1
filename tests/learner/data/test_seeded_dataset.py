"""A seeded dataset draws by seed, epoch and sample, whoever asks."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
)

from learner.data.seeded_dataset import seeded
from tests.noise import (
    SIZE,
    N,
    Noisy,
    NoisyTogether,
    Stream,
    generator_states,
    same,
)


@pytest.mark.parametrize("dataset", [Noisy(), NoisyTogether()], ids=["one", "all"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_seeded_dataset_draws_by_epoch_and_sample_in_any_worker(dataset, persistent):
    one, other = seeded(dataset, 3), seeded(dataset, 3)
    alone = DataLoader(one, SIZE)
    loader = DataLoader(other, SIZE, num_workers=2, persistent_workers=persistent)
    passes = []
    for epoch in (0, 1, 0):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        passes.append(list(alone))
        assert same(list(loader), passes[-1])
    assert same(passes[0], passes[2])
    numbers = torch.cat([*passes[0], *passes[1], *DataLoader(seeded(dataset, 4), SIZE)])[:, 1:]
    assert numbers.unique().numel() == numbers.numel()


def test_the_noise_of_a_seeded_sample_does_not_depend_on_who_asks_and_when():
    dataset = seeded(Noisy(), 0)
    sample = dataset[4]
    before = generator_states()
    assert torch.equal(dataset[4], sample)
    assert torch.equal(dataset[torch.tensor(4)], sample)
    assert torch.equal(dataset[np.int64(4)], sample)
    assert generator_states() == before
    shuffled = torch.cat(list(DataLoader(dataset, SIZE, shuffle=True)))
    assert torch.equal(shuffled[shuffled[:, 0] == 4][0], sample)


def test_a_seeded_dataset_shows_what_the_dataset_has():
    one, together = seeded(Noisy(), 0), seeded(NoisyTogether(), 0)
    assert one.classes == ("cat", "dog")
    assert len(one) == N
    assert not hasattr(one, "__getitems__")
    assert len(together.__getitems__([1, 2])) == 2
    with pytest.raises(AttributeError, match="'Noisy' object has no attribute 'nothing'"):
        one.nothing
    assert torch.equal(copy.deepcopy(one)[3], one[3])
    assert seeded({"a": 1}, 0)["a"] == 1
    with pytest.raises(TypeError, match=r"`dataset` must be one with numbered samples .* got Stream; seed a stream"):
        seeded(Stream(), 0)
