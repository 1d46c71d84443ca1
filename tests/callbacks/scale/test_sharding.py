"""Which layers are gathered one at a time, by what they are called; what cannot be cut is refused."""

import pytest
from torch import nn

from callbacks.scale.sharding import layers_to_shard


def transformer() -> nn.Module:
    blocks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2)]
    return nn.Sequential(nn.Embedding(5, 4), nn.ModuleList(blocks), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["1.*"], ["1.1", "1.0"]),
        (["1.0", "1.0.2", "1.0.0"], ["1.0.2", "1.0.0", "1.0"]),  # parts first
        (["**"], ["2", "1.1.2", "1.1.0", "1.1", "1.0.2", "1.0.0", "1.0", "0"]),  # no activation, container, model
        ([""], []),  # the model is put in shards anyway
        ([], []),
        ([0, 3], ["1.0"]),
    ],
)
def test_layers_are_found_by_name_glob_and_position_parts_before_the_whole(wanted, names):
    assert list(layers_to_shard(transformer(), wanted)) == names


def test_a_module_is_found_by_itself():
    model = transformer()
    assert layers_to_shard(model, [model[2]]) == {"2": model[2]}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["blocks.*"], r"`layers` must be names, .*got 'blocks\.\*'.*there is 0 \(the model\), 1 0, 2 1, 3 1\.0"),
        (["1.0:in"], r"must be whole modules, got '1\.0:in'"),
        (["1.0:0"], r"must be whole modules, got '1\.0:0'"),
        (["1.0.1"], r"must be modules with parameters, .*got '1\.0\.1', which has none"),
        (["1"], r"got '1', which is a container that nobody calls; name its parts"),
    ],
)
def test_what_cannot_be_put_in_shards_is_one_error(wanted, message):
    with pytest.raises(ValueError, match=message):
        layers_to_shard(transformer(), wanted)


def test_one_name_in_the_place_of_several_is_an_error():
    with pytest.raises(TypeError, match=r"must be a sequence of layers, got '1\.\*'"):
        layers_to_shard(transformer(), "1.*")


def test_a_parameter_of_two_layers_is_named_by_both_of_its_names():
    model = transformer()
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"share a parameter, got '0\.weight' and '2\.weight'"):
        layers_to_shard(model, ["0", "2"])
    with pytest.raises(ValueError, match=r"share a parameter, got '0\.weight' and '2\.weight'"):
        layers_to_shard(model, ["2"])  # the other one is left to the model
    assert list(layers_to_shard(model, ["1.*"])) == ["1.1", "1.0"]  # both are
