"""What takes a loader's place looks like it."""

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from learner.data.wrapper import LoaderPart, LoaderWrapper, length_of


def test_a_wrapper_has_what_the_loader_has_and_can_be_copied():
    generator = torch.Generator()
    loader = DataLoader(range(7), batch_size=3, shuffle=True, generator=generator)
    wrapper = LoaderWrapper(loader)
    assert (len(wrapper), wrapper.batch_size, wrapper.generator) == (3, 3, generator)
    assert copy.copy(wrapper).loader is loader
    assert len(pickle.loads(pickle.dumps(LoaderWrapper([1, 2])))) == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = wrapper.nothing


def test_a_part_shows_data_and_generators_and_hides_the_rest():
    part = LoaderPart(DataLoader(range(7), batch_size=3), 2)
    assert (list(part.dataset), part.batch_size) == (list(range(7)), 3)
    assert repr(part) == "LoaderPart(DataLoader, 2)"
    with pytest.raises(AttributeError, match="'LoaderPart' object has no attribute 'num_workers'"):
        _ = part.num_workers
    assert copy.copy(part).n == 2


@pytest.mark.parametrize(("loader", "length"), [([1, 2], 2), (iter([1]), None), (DataLoader(range(5), 2), 3)])
def test_a_length_or_none(loader, length):
    assert length_of(loader) == length
