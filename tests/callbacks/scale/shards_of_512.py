"""What each of many processes holds and exchanges of a model of 7 B parameters, in shards: a table, as in the docs.

No process is there but this one: torch's own fake group has any number of ranks, and the model has no memory. Run it by
`python -m tests.callbacks.scale.shards_of_512 32 8 64 512`, of 32 blocks, which are 7 B. Its lines are the number of
ranks, the rank, parameters that it holds, parameters there are, those of the largest layer, and rows of one of 1000.
"""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from callbacks.scale.sharding import layers_to_shard, shard_modules

WIDTH, HIDDEN, N_WORDS = 4096, 11008, 32000  # as Llama 2 has them


def transformer(n_blocks: int) -> nn.Module:
    """Return the parameters of a transformer, in layers that nobody calls."""

    def block() -> nn.Module:
        attention = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)]
        ffn = [nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)]
        norms = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        return nn.Sequential(*attention, *ffn, nn.Linear(HIDDEN, WIDTH, bias=False), *norms)

    with torch.device("meta"):
        blocks = nn.Sequential(*(block() for _ in range(n_blocks)))
        head = nn.Linear(WIDTH, N_WORDS, bias=False)
        return nn.Sequential(nn.Embedding(N_WORDS, WIDTH), blocks, nn.RMSNorm(WIDTH), head)


def held(n_blocks: int, world: int, rank: int) -> tuple[int, int, int, int]:
    """Return how many parameters a rank holds, of how many, those of the largest layer, and rows of one of 1000."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    model: Any = nn.Sequential(transformer(n_blocks), nn.Linear(8, 1000, bias=False, device="meta"))
    big, small = model
    layers = layers_to_shard(model, ["0.0", "0.1.*", "0.3", "1"])
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in layers.values())
    shard_modules(model, layers, mesh=init_device_mesh("cpu", (world,)))
    local = sum(p.to_local().numel() for p in big.parameters())
    result = local, sum(p.numel() for p in big.parameters()), largest, len(small.weight.to_local())
    dist.destroy_process_group()
    return result


if __name__ == "__main__":
    n_blocks, *worlds = map(int, sys.argv[1:])
    for world in worlds:
        for rank in (0, world - 1):
            sys.stdout.write(f"{world} {rank} {' '.join(map(str, held(n_blocks, world, rank)))}\n")
