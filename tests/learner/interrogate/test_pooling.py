"""One row per sample: each pool against arithmetic, and what does not fit."""

import pytest
import torch
from torch import nn

from learner import LearnerError
from learner.interrogate import capture
from learner.interrogate.pooling import checked_pool

SEQUENCES = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))  # (N, T, D)
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


class Layers(nn.Module):
    """Give what it is given, through one layer, whatever else it is told."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x, attention_mask=None, src_key_padding_mask=None, lengths=None, **kwargs):
        return self.layer(x)


def pooled(x, pool, **told):
    model = Layers()
    with capture(model, "layer", pool=pool) as acts:
        model(x, **told)
    return acts["layer"]


def by_hand(x, reduce, axes):
    """Reduce a numpy array, one axis after the other."""
    return torch.from_numpy(reduce(x.numpy(), axis=axes))


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 3), ()), ((4, 5, 3), (1,)), ((4, 3, 6, 7), (2, 3)), ((4, 3, 2, 6, 7), (2, 3, 4))]
)
def test_mean_and_max_leave_samples_and_features(shape, axes):
    x = torch.randn(shape)
    torch.testing.assert_close(pooled(x, "mean"), by_hand(x, lambda a, axis: a.mean(axis) if axis else a, axes))
    assert torch.equal(pooled(x, "max"), by_hand(x, lambda a, axis: a.max(axis) if axis else a, axes))


def test_flatten_first_and_last():
    assert torch.equal(pooled(SEQUENCES, "flatten"), SEQUENCES.reshape(4, 15))
    assert torch.equal(pooled(SEQUENCES, "cls"), SEQUENCES[:, 0])
    assert torch.equal(pooled(SEQUENCES, "last"), SEQUENCES[:, 4])


@pytest.mark.parametrize(
    "told",
    [
        {"attention_mask": REAL},
        {"attention_mask": REAL.bool()},
        {"src_key_padding_mask": REAL == 0},
        {"src_key_padding_mask": torch.zeros(4, 5).masked_fill(REAL == 0, -torch.inf)},
        {"lengths": REAL.sum(1)},
        {"mask": REAL},  # by `**kwargs`
    ],
    ids=["numbers", "bools", "padding", "padding in numbers", "lengths", "any keyword"],
)
def test_masked_mean_takes_no_padding_however_it_was_told(told):
    expected = torch.stack([SEQUENCES[i, : REAL[i].sum()].mean(0) for i in range(3)])
    found = pooled(SEQUENCES, "masked_mean", **told)
    torch.testing.assert_close(found[:3], expected)
    assert found[3].tolist() == [0, 0, 0]  # nothing is real: no division by zero


def test_a_function_makes_what_it_wants():
    assert torch.equal(pooled(SEQUENCES, lambda x: x[:, 2]), SEQUENCES[:, 2])
    assert pooled(SEQUENCES, lambda x: x.shape) == (4, 5, 3)


@pytest.mark.parametrize("pool", ["mean", "max", "flatten", "cls", "last", lambda x: x[:, 0], lambda x: x])
def test_what_was_pooled_does_not_change_with_what_was_given(pool):
    x = torch.ones(4, 5, 3)
    found = pooled(x, pool)
    x.zero_()
    assert (found == 1).all()
    x = torch.ones(4, 3)
    found = pooled(x, "mean")  # nothing to reduce
    x.zero_()
    assert (found == 1).all()


def test_each_layer_may_have_a_pool_of_its_own():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
    with capture(model, "0", "[12]", pool={"0": "mean", "[12]": lambda x: x[:, 0]}) as acts:
        output = model(SEQUENCES)
    assert torch.equal(acts["0"], model[0](SEQUENCES).mean(1))
    assert torch.equal(acts["2"], output[:, 0])
    with capture(model, "0", "2", pool={"0": "mean"}) as acts:
        model(SEQUENCES)
    assert torch.equal(acts["2"], output)
    with pytest.raises(ValueError, match=r"`pool` must be by layers that are captured, \['0'\], got '2'"):
        capture(model, "0", pool={"2": "mean"})
    with pytest.raises(ValueError, match=r"`pool` must be one of mean, .*, got 'men'"):
        capture(model, "0", pool={"0": "men"})


@pytest.mark.parametrize("pool", [None, "mean", len])
def test_pools_that_there_are(pool):
    assert checked_pool(pool) is pool


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("men", r"`pool` must be one of mean, .* or a function, got 'men', did you mean 'mean'\?"),
        (3, "`pool` must be one of mean, .* or a function, got 3"),
        (["mean"], r"got \['mean'\]"),
    ],
)
def test_no_pool(pool, message):
    with pytest.raises(ValueError, match=message):
        checked_pool(pool)


@pytest.mark.parametrize(
    ("pool", "shape", "wanted"),
    [
        ("mean", (4,), r"\(N, D, \.\.\.\)"),
        ("flatten", (), r"\(N, D, \.\.\.\)"),
        ("cls", (4, 3), r"\(N, T, D\)"),
        ("last", (4, 3, 6, 7), r"\(N, T, D\)"),
        ("masked_mean", (4, 3), r"\(N, T, D\)"),
    ],
)
def test_a_pool_that_does_not_fit_the_shape(pool, shape, wanted):
    with pytest.raises(
        LearnerError, match=rf"`pool='{pool}'` must be given {wanted}, got Tensor\(.* of 'layer'; choose"
    ):
        pooled(torch.zeros(shape), pool)


def test_rows_that_are_no_samples():
    model = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 2))
    message = r"must be given samples along the first axis, got Tensor\(20, 2\) .* of '1' for 4 samples"
    with pytest.raises(LearnerError, match=message), capture(model, "1", pool="mean"):
        model(SEQUENCES)


@pytest.mark.parametrize(
    "layer", [nn.LSTM(3, 3), nn.TransformerEncoderLayer(3, 1, 8), nn.MultiheadAttention(3, 1)], ids=type
)
def test_time_before_samples_even_where_there_are_as_many_of_both(layer):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x) if isinstance(layer, nn.MultiheadAttention) else self.layer(x)

    model = Model()
    name = "layer" if isinstance(layer, nn.TransformerEncoderLayer) else "layer:0"
    with capture(model, name, pool=lambda x: x.mean(0)) as acts:
        model(torch.randn(4, 4, 3))
    assert acts[name].shape == (4, 3)
    message = "if the first axis is time, give a function"
    with pytest.raises(LearnerError, match=message), capture(model, name, pool="mean"):
        model(torch.randn(4, 4, 3))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # which there are none of, with time first
@pytest.mark.parametrize("name", ["encoder.layers.0.linear1", "decoder.layers.0.norm1", "encoder"])
def test_time_before_samples_in_a_part_of_such_a_layer(name):
    model = nn.Transformer(4, 1, 1, 1, 8)
    message = "if the first axis is time, give a function"
    with pytest.raises(LearnerError, match=message), capture(model, name, pool="mean"):
        model(torch.randn(3, 3, 4), torch.randn(3, 3, 4))


def test_a_layer_beside_one_with_time_first_is_pooled():
    class Turn(nn.Module):
        def forward(self, given):
            return given[0].transpose(0, 1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LSTM(3, 2), Turn(), nn.Linear(2, 2))

        def forward(self, x):
            return self.net(x.transpose(0, 1))

    model = Model()
    with capture(model, "net.2", pool="mean") as acts:
        output = model(SEQUENCES)
    assert torch.equal(acts["net.2"], output.mean(1))


def test_batch_first_layers_are_pooled():
    model = nn.LSTM(3, 2, batch_first=True)
    with capture(model, ":0", pool="mean") as acts:
        output, _ = model(SEQUENCES)
    assert torch.equal(acts[":0"], output.mean(1))


@pytest.mark.parametrize("told", [{}, {"attention_mask": torch.ones(4, 6)}, {"mask": "all"}])
def test_no_mask_that_fits(told):
    with pytest.raises(LearnerError, match=r"`pool='masked_mean'` must find a mask \(N, T\) .*, got \[.*'x'\] for"):
        pooled(SEQUENCES, "masked_mean", **told)


def test_a_mask_is_known_only_where_the_model_is_called():
    model = Layers()
    message = "`pool='masked_mean'` must see the model called"
    with pytest.raises(LearnerError, match=message), capture(model, "layer", pool="masked_mean"):
        model.layer(SEQUENCES)
