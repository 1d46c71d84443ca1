"""What counts as a block of well-known kinds of models."""

import pytest
import torch
from torch import nn

from learner.optim.blocks import blocks_of


def names_by_block(model):
    names = {p: name for name, p in model.named_parameters()}
    return [[names[p] for p in block] for block in blocks_of(model)]


def layers_by_block(model):
    return [sorted({name.rpartition(".")[0] for name in block}) for block in names_by_block(model)]


class Residual(nn.Module):
    """A block that has a container inside."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.downsample = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.layer1 = nn.Sequential(Residual(), Residual())
        self.layer2 = nn.Sequential(Residual(), Residual())
        self.fc = nn.Linear(3, 2)


class VisionTransformer(nn.Module):
    def __init__(self, n=4):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.Conv2d(3, 4, 2)
        layers = [nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(n)]
        self.blocks, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(4), nn.Linear(4, 2)


class Bert(nn.Module):
    """As those of Hugging Face: a model in a model, whose depth is in a list in a module."""

    def __init__(self):
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.word, self.bert.embeddings.norm = nn.Embedding(1000, 4), nn.LayerNorm(4)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(3))
        self.bert.pooler = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 2)


def starts(model):
    """Return how the names of each block begin, as far as they are the same."""
    found = []
    for block in names_by_block(model):
        pieces = zip(*(name.split(".") for name in block), strict=False)
        same = [parts[0] for parts in pieces if len(set(parts)) == 1]
        found.append(".".join(same) or " ".join(block))
    return found


def test_a_flat_network_has_a_block_for_each_layer_with_its_norm():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    assert layers_by_block(model) == [["0", "1", "2"], ["4"]]
    assert [len(block) for block in blocks_of(nn.DataParallel(model))] == [6, 2]


class OwnNorm(nn.Module):
    """As the norms of T5 and Llama are, which are not torch's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


def test_a_module_of_one_dimension_is_as_a_norm_and_a_lazy_layer_a_block():
    model = nn.Sequential(OwnNorm(), nn.Linear(4, 4), OwnNorm(), nn.PReLU(4), nn.LazyLinear(2))
    assert layers_by_block(model) == [["0", "1", "2", "3"], ["4"]]


def test_containers_in_containers_are_taken_apart():
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert starts(nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))) == ["0.0", "0.2", "1.1"]


def test_a_convolutional_network_has_its_residual_blocks():
    assert starts(ResNet()) == ["conv1.weight conv1.bias bn1.weight bn1.bias", "layer1.0", "layer1.1"] + [
        "layer2.0",
        "layer2.1",
        "fc",
    ]


def test_a_network_beside_a_new_head_is_taken_apart():
    assert starts(nn.Sequential(ResNet(), nn.Linear(2, 5)))[1:] == ["0.layer1.0", "0.layer1.1"] + [
        "0.layer2.0",
        "0.layer2.1",
        "0.fc",
        "1",
    ]


def test_a_transformer_has_its_blocks_and_tokens_of_its_own_are_at_the_input():
    blocks = names_by_block(VisionTransformer())
    assert blocks[0] == ["cls_token", "pos_embed", "patch_embed.weight", "patch_embed.bias"]
    assert [block[0].split(".")[:2] for block in blocks[1:5]] == [["blocks", str(i)] for i in range(4)]
    assert blocks[4][-2:] == ["norm.weight", "norm.bias"]
    assert blocks[5] == ["head.weight", "head.bias"]


def test_depth_is_found_in_a_list_in_a_module_in_a_model():
    assert starts(Bert()) == ["bert.embeddings"] + [f"bert.encoder.layer.{i}" for i in range(3)] + [
        "bert.pooler",
        "classifier",
    ]


def test_a_network_without_a_container_has_its_children():
    model = nn.Module()
    model.conv, model.drop, model.fc = nn.Conv2d(3, 3, 1), nn.Dropout(), nn.Linear(3, 2)
    assert starts(model) == ["conv", "fc"]


@pytest.mark.parametrize("model", [nn.Linear(2, 1), nn.LayerNorm(2)])
def test_a_single_layer_is_a_block(model):
    assert names_by_block(model) == [["weight", "bias"]]


def test_nothing_to_train_is_no_block():
    assert blocks_of(nn.Sequential(nn.ReLU())) == []


def test_tied_weights_are_in_the_first_block_that_has_them():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert names_by_block(model) == [["0.weight", "0.bias"], ["1.bias"]]
