"""The blocks that a model is made of, from its input to its output, for learning rates that fall with depth."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from learner.interrogate.layers import inside
from learner.optim.names import NORMS

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each block, in the order in which the modules were registered.

    The blocks are the model's children, some of which are taken apart into their own children in turn: containers
    (`Sequential`, `ModuleList`, `ModuleDict`); modules with a container inside, as the encoder of a transformer is, but
    not if they are members of a container themselves, as its blocks are; and modules that hold more than half of the
    model's layers, as a whole network beside a new head does.

    What has no parameters is not a block. A norm, or another module whose parameters all have one dimension, belongs to
    the block before it. Parameters that a module holds beside its children, such as an embedding of positions, belong
    to the first block of that module. Tied parameters belong to the first block that has them.

    Example:
        >>> body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
        >>> [len(block) for block in blocks_of(nn.Sequential(body, nn.Linear(4, 2)))]
        [4, 2, 2]
    """
    blocks: list[list[nn.Parameter]] = []
    waiting: list[nn.Parameter] = []  # for the block that comes next
    seen: set[nn.Parameter] = set()
    for module, parameters in _pieces(inside(model), is_member=False, half=_n_layers(model) / 2, is_model=True):
        new = [p for p in parameters if p not in seen]
        seen.update(new)
        is_slight = isinstance(module, NORMS) or all(not is_lazy(p) and p.ndim <= 1 for p in parameters)
        if module is not None and is_slight and blocks:
            blocks[-1] += new
        elif module is None or is_slight:
            waiting += new
        elif new:
            blocks.append([*waiting, *new])
            waiting = []
    return [*blocks, waiting] if waiting else blocks


def _pieces(
    module: nn.Module, *, is_member: bool, half: float, is_model: bool = False
) -> Iterator[tuple[nn.Module | None, list[nn.Parameter]]]:
    """Yield the modules that are not taken apart with their parameters, and None with those that others hold."""
    is_container = isinstance(module, _CONTAINERS)
    has_container = any(isinstance(m, _CONTAINERS) for m in module.modules())
    is_big = _n_layers(module) > half and any(True for _ in module.children())
    if not (is_model or is_container or (has_container and not is_member) or is_big):
        yield module, list(module.parameters())
        return
    yield None, list(module.parameters(recurse=False))
    for child in module.children():
        yield from _pieces(inside(child), is_member=is_container, half=half)


def _n_layers(module: nn.Module) -> int:
    """Count the modules that hold parameters themselves."""
    return sum(any(True for _ in m.parameters(recurse=False)) for m in module.modules())
