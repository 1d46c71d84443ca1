"""Put a model in shards: which layers are gathered at once, and the optimizer of what becomes of their parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from callbacks.scale.gradients import copy_from_first
from learner import Learner, LearnerError
from learner.interrogate.layers import inside, named_layers, places_by_name
from learner.optim.several import parts_of, replace_parameters


def layers_to_shard(model: nn.Module, wanted: Iterable[Any]) -> dict[str, nn.Module]:
    """Return the layers that are gathered one at a time, by name; a part of one comes before it.

    Args:
        model: the model, in shards or not.
        wanted: what `learner.interrogate.layers.places_by_name` takes. Of a glob, layers without parameters and
            containers, as a `ModuleList`, are left out.

    Raises:
        TypeError, ValueError: if there is no such layer, or it has no parameters or is not called; if a parameter is in
            two of them.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))
        >>> list(layers_to_shard(model, ["*", "2.0"]))
        ['2.0', '2', '0']
    """
    chosen = set()
    for want, (layer, *_) in places_by_name(model, wanted).items():
        if layer.is_input or layer.part is not None:
            raise ValueError(f"`layers` must be whole modules, got {want!r}; leave out the ':' and what follows.")
        has_parameters = any(True for _ in layer.module.parameters())
        is_called = type(layer.module).forward is not nn.Module.forward
        if has_parameters and is_called:
            chosen.add(layer.module)
        elif layer.is_certain:
            what = "is a container that nobody calls; name its parts" if has_parameters else "has none; leave it out"
            raise ValueError(f"`layers` must be modules with parameters, which are called, got {want!r}, which {what}.")
    layers = {name: module for name, module in named_layers(model).items() if module in chosen and name}
    layers = dict(reversed(layers.items()))
    _refuse_shared(model, layers)
    return layers


def _refuse_shared(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuse a parameter that would be gathered with two layers: torch would make two of it."""
    layer_of: dict[nn.Module, str] = {}
    for name, module in layers.items():  # a part of a layer comes before it, and keeps what it has
        for part in module.modules():
            layer_of.setdefault(part, name)
    holders: defaultdict[Tensor, dict[str, str]] = defaultdict(dict)
    for name, module in named_layers(model).items():
        for of_module, p in module._parameters.items():
            if p is not None:
                holders[p].setdefault(layer_of.get(module, ""), f"{name}.{of_module}" if name else of_module)
    for names in holders.values():
        if len(names) > 1:
            raise ValueError(
                f"`layers` must not part modules that share a parameter, got "
                f"{' and '.join(map(repr, names.values()))}, which are one; name a layer that holds both, or leave "
                f"both to the model itself."
            )


def shard(learn: Learner, layers: Mapping[str, nn.Module], **options: Any) -> None:
    """Put a learner's model in shards, with the first process's weights, and let its optimizer follow.

    Args:
        learn: the learner.
        layers: those that are gathered one at a time, parts first; the rest of the model is gathered as one.
        options: of `fully_shard`.
    """
    model = inside(learn.model)
    optimizers = [] if learn.opt is None else parts_of(learn.opt)
    for tensor in (*model.parameters(), *model.buffers()):
        copy_from_first([tensor])  # one by one, for a copy of all of them may not fit
    new = shard_modules(model, layers, **options)
    for opt in optimizers:
        replace_parameters(opt, new)
        _shard_state(opt)
    if learn.rates is not None:
        learn.rates.left_out = frozenset(new.get(p, p) for p in learn.rates.left_out)


def require_can_be_cut(learn: Learner) -> None:
    """Refuse a learner that cannot be put in shards.

    Raises:
        LearnerError: if a layer is lazy, or the optimizer remembers what cannot be cut.
    """
    model = inside(learn.model)
    if lazy := [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]:
        raise LearnerError(
            f"`model` must have its parameters to be put in shards, but {lazy[0]!r} is lazy; call it on a batch first."
        )
    for opt in [] if learn.opt is None else parts_of(learn.opt):
        _refuse_other_state(opt)


def shard_modules(model: nn.Module, layers: Mapping[str, nn.Module], **options: Any) -> dict[Tensor, nn.Parameter]:
    """Put a model in shards, its layers before the rest of it; return its new parameters by the former ones."""
    old = dict(model.named_parameters(remove_duplicate=False))
    for layer in layers.values():
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return {old[name]: p for name, p in model.named_parameters(remove_duplicate=False)}


def _refuse_other_state(opt: torch.optim.Optimizer) -> None:
    for p, values in opt.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != p.shape:
                raise LearnerError(
                    f"what the optimizer remembers must have the shapes of its parameters to be put in shards, got "
                    f"{key!r} of shape {tuple(value.shape)} for a parameter of {tuple(p.shape)}; set "
                    f"`learn.opt = None` to have it begin anew."
                )


def _shard_state(opt: torch.optim.Optimizer) -> None:
    """Put in shards what an optimizer remembers of its parameters, which are."""
    for p, values in opt.state.items():
        for key, value in values.items():
            if isinstance(p, DTensor) and isinstance(value, Tensor) and value.ndim:
                values[key] = distribute_tensor(value, p.device_mesh, p.placements)


def require_all_sharded(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuse a model that is in shards in part.

    Raises:
        LearnerError: if a parameter, or one of the layers, is not.
    """
    whole = [name for name, p in inside(model).named_parameters() if not isinstance(p, DTensor)]
    whole += [name for name, layer in layers.items() if not isinstance(layer, FSDPModule)]
    if whole:
        raise LearnerError(
            f"`model` must be in shards as a whole once it is, but {', '.join(map(repr, whole[:5]))} is not: it was "
            f"added or named later. Make model and learner anew."
        )


def reshard(model: nn.Module) -> None:
    """Let no layer be gathered any longer than it is computed with."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
