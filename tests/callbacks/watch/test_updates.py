"""ParameterCopy: what is written for several parameters at once, against one at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.linalg import vector_norm

from callbacks.watch.updates import N_BINS, ParameterCopy
from learner import LearnerError


def make(**shapes):
    """Return parameters with gradients, some of these zero."""
    named = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    for p in named.values():
        p.grad = torch.randn_like(p) * (torch.rand_like(p) > 0.4)
    return named


def test_norms_before_and_after_in_the_order_given():
    named = make(a=(3, 4), b=(), c=(2, 1, 5))
    before = [p.detach().clone() for p in named.values()]
    copy, row = ParameterCopy(named), torch.empty(3, 3)
    copy.write_before(row, None)
    torch.optim.SGD(named.values(), lr=0.3).step()
    copy.write_after(row)
    for i, (p, old) in enumerate(zip(named.values(), before, strict=True)):
        torch.testing.assert_close(
            row[:, i], torch.stack([vector_norm(p.grad), vector_norm(old), vector_norm(p - old)])
        )
    assert copy.columns == {"a": 0, "b": 1, "c": 2}


def test_counts_replace_what_was_there():
    named = make(a=(30, 4), b=(7,))
    copy, counts = ParameterCopy(named), torch.full((5, 1 + N_BINS), 99, dtype=torch.int32)
    for _ in range(2):
        copy.write_before(torch.empty(3, 2), counts)
    for p, got in zip(named.values(), counts, strict=False):
        _, exponents = np.frexp(p.grad.abs().numpy())
        bins = np.where(p.grad == 0, 0, exponents + 30)
        np.testing.assert_array_equal(got, np.bincount(bins.ravel(), minlength=1 + N_BINS))
    assert not counts[2:].any()


def test_gradients_and_parameters_stay_as_they_are():
    named = make(a=(3, 4), b=(5,))
    old = [(p.detach().clone(), p.grad.clone()) for p in named.values()]
    copy, row = ParameterCopy(named), torch.empty(3, 2)
    copy.write_before(row, torch.empty(2, 1 + N_BINS, dtype=torch.int32))
    copy.write_after(row)
    for p, (value, grad) in zip(named.values(), old, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(p.grad, grad)
    assert row[2].tolist() == [0, 0]


def test_follows_parameters_whose_storage_is_replaced():
    named = make(a=(4,))
    copy, row = ParameterCopy(named), torch.empty(3, 1)
    named["a"].data = torch.full((4,), 3.0)
    copy.write_before(row, None)
    named["a"].data = torch.full((4,), 5.0)
    copy.write_after(row)
    assert row[1:, 0].tolist() == [6, 4]


def test_the_copy_takes_as_much_as_the_parameters():
    assert ParameterCopy(make(a=(3, 4), b=(5,))).flat.shape == (17,)
    half = {"p": nn.Parameter(torch.ones(3, dtype=torch.float16))}
    assert ParameterCopy(half).flat.dtype == torch.float32
    assert ParameterCopy({**half, "q": nn.Parameter(torch.ones(1).double())}).flat.dtype == torch.float64


def test_parts_lie_in_memory_as_the_parameters_do():
    """Or an accelerator would copy them one by one."""
    turned = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    named = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(turned), "c": nn.Parameter(torch.ones(3, 4).T)}
    copy = ParameterCopy(named)
    assert [part.stride() for part in copy._parts] == [p.stride() for p in named.values()]
    assert [part.storage_offset() for part in copy._parts] == [0, 2, 218]


def test_refuses_several_devices():
    named = {"a": nn.Parameter(torch.ones(1)), "b": nn.Parameter(torch.ones(1, device="meta"))}
    with pytest.raises(
        LearnerError, match="the parameters to watch must be on one device, got cpu, meta; choose those"
    ):
        ParameterCopy(named)
