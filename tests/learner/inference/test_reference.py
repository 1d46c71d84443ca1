"""What a sample of a loader looks like, and what is made one."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from learner import Learner, Loaders, Predictor
from learner.data.rounds import RoundsLoader
from learner.inference.reference import reference_of


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Two(nn.Module):
    def forward(self, signal, age):
        return signal * age


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2)


def of(loader, model=None, **options):
    model = model or nn.Linear(2, 2)
    learn = Learner(model, {"valid": loader}, nn.functional.mse_loss, predictor=Predictor(model, **options))
    return reference_of(learn, "valid")


X, Y = torch.arange(6.0).reshape(3, 2), torch.arange(3)


def test_a_pair_takes_its_input_alone_or_both():
    reference = of(Loaders.from_arrays(valid=(X, Y), batch_size=2).valid)
    assert (reference.inputs, reference.batch_size, str(reference)) == ((0,), 2, "Tensor(2,) float32")
    for value in ([7.0, 8.0], (torch.tensor([7.0, 8.0]), 2)):
        made = reference.sample_of(value)
        assert made[0].tolist() == [7.0, 8.0]
    assert (reference.sample_of([7.0, 8.0])[1].item(), made[1].item()) == (0, 2)
    batch = reference.collate([made, made])
    assert batch[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("loader", "model", "options", "inputs"),
    [
        ([(X, X, Y)], Two(), {}, (0, 1)),
        ([(X, X, Y)], Two(), {"n_inp": 1}, (0,)),
        ([(X, X)], Two(), {"unpack_lists": True}, (0, 1)),
        ([{"signal": X, "age": X, "label": Y, "place": Y}], Two(), {}, ("signal", "age")),
        ([{"input": X, "label": Y}], None, {}, ("input",)),
        ([X], None, {}, None),
        (DataLoader(["a", "b"]), None, {}, None),
        (DataLoader([Pair(X[0], Y[0])]), None, {}, ("x",)),
        (DataLoader([(X, Y)], batch_size=None), None, {}, (0,)),
    ],
)
def test_which_parts_go_in_is_as_in_a_fit(loader, model, options, inputs):
    assert of(loader, model, **options).inputs == inputs


def test_a_mapping_needs_what_goes_in_alone():
    reference = of([{"signal": X, "age": X, "label": Y}], Two())
    assert str(reference) == "{'signal': Tensor(2,) float32, 'age': Tensor(2,) float32}"
    made = reference.sample_of({"signal": [1.0, 2.0], "age": [3.0, 4.0], "more": 1})
    assert (made["age"].tolist(), made["label"].item(), list(made)) == ([3.0, 4.0], 0, ["signal", "age", "label"])
    with pytest.raises(ValueError, match="without 'age'"):
        reference.sample_of({"signal": [1.0, 2.0]})


def test_several_inputs_and_named_tuples():
    reference = of([(X, X, Y)], Two())
    assert len(reference.sample_of(([1.0, 2.0], [3.0, 4.0]))) == 3
    with pytest.raises(TypeError, match="it is of another type"):
        reference.sample_of([1.0, 2.0, 3.0])
    assert of(DataLoader([Pair(X[0], Y[0])])).sample_of([5.0, 6.0]).x.tolist() == [5.0, 6.0]


@pytest.mark.parametrize(
    "loader", [DataLoader(Stream()), iter([X]), [], DataLoader([])], ids=["stream", "iterator", "nothing", "no samples"]
)
def test_what_shows_no_sample(loader):
    assert of(loader) is None


def test_a_part_of_a_loader_collates_as_the_whole():
    loader = DataLoader([(X[0], 1)], collate_fn=list)
    assert of(RoundsLoader(loader, 3)).collate is list


def test_looking_moves_no_random_generator():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return torch.randn(2), 0.0

    model = nn.Linear(2, 2)
    state = torch.get_rng_state()
    of(DataLoader(Noisy()), model)
    assert torch.equal(torch.get_rng_state(), state)
