"""Tensors that several processes bring together: gradients that they average, weights that they copy and compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner import Learner
from learner.loop.trainable import named_parameters, other_parameters
from learner.loop.weight import batch_weight


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return tensors in lists of one dtype and device each, which can be sent as one."""
    kinds: defaultdict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        kinds[tensor.dtype, tensor.device].append(tensor)
    return list(kinds.values())


@torch.no_grad()
def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors the values that they have in the first process."""
    for kind in by_kind(tensors):
        flat = torch.cat([tensor.detach().flatten() for tensor in kind])
        dist.broadcast(flat, src=0)
        _put(flat, kind)


@torch.no_grad()
def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes.

    Where one of them has none it counts as zero; where none of them has one there will be none. Which have one may
    differ: a process may have had no sample that needed a part of the model.
    """
    parameters = list(parameters)
    if not parameters:
        return
    has_one = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    dist.all_reduce(has_one, op=dist.ReduceOp.MAX)
    wanted = [p for p, is_there in zip(parameters, has_one.tolist(), strict=True) if is_there]
    for p in wanted:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for kind in by_kind(p.grad for p in wanted if p.grad is not None):
        flat = torch.cat([grad.flatten() for grad in kind])
        dist.all_reduce(flat)
        _put(flat.div_(dist.get_world_size()), kind)


def average_all(learn: Learner) -> None:
    """Average the gradients of all that is trained."""
    average(dict.fromkeys((*_trained(named_parameters(learn).values()), *parameters_apart(learn))))


def parameters_apart(learn: Learner) -> list[nn.Parameter]:
    """Return what is trained and is no part of the model: parameters of the loss, and what only the optimizer has."""
    of_model = set(learn.model.parameters())
    candidates = (*named_parameters(learn).values(), *other_parameters(learn, learn.opt))
    return [p for p in _trained(candidates) if p not in of_model]


def own_weight(learn: Learner, n_mine: int) -> Tensor | None:
    """Return what the loss of this process is a mean over, where somebody says it; 0 where it has no sample.

    Raises:
        LearnerError: if that is no such number.
    """
    if learn.weight is None:
        return None
    weight = batch_weight(learn) if n_mine else 0.0
    return torch.as_tensor(weight, dtype=torch.float64, device=learn.loss.device)


def factor_of_share(learn: Learner, mine: Tensor | None, n: int, n_mine: int, *, adds_up: bool) -> Tensor | float:
    """Return what to multiply the loss of a share by, so that the mean over processes is that of the whole batch.

    What the whole batch weighs is `learn.global_weight` from then on.

    Args:
        learn: the learner.
        mine: of `own_weight`.
        n: samples of the whole batch.
        n_mine: of this share.
        adds_up: whether the loss is a sum over samples.
    """
    world = learn.job.world
    if mine is not None:
        whole = mine.clone()
        dist.all_reduce(whole)
        learn.global_weight = whole
        return torch.where(whole == 0, 0.0, world * mine / whole).to(learn.loss.dtype)
    learn.global_weight = 1.0 if adds_up else float(n)
    return float(world) if adds_up else world * n_mine / n


def zero_loss(learn: Learner, *, is_of_forward: bool) -> Tensor:
    """Return a loss of which each trained parameter of the model gets a gradient of zeros.

    Args:
        learn: the learner, with a loss.
        is_of_forward: whether it has to come from the forward, as where parameters may have no part in that; a loss
            that is NaN then gives NaN. Else whatever the forward has given does not matter.
    """
    if is_of_forward:
        return learn.loss * 0.0  # type: ignore[no-any-return]
    return sum(((p * 0).sum() for p in _trained(learn.model.parameters())), learn.loss.new_zeros(()))


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]


def _put(flat: Tensor, tensors: list[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


@torch.no_grad()
def checksum(model: nn.Module) -> int:
    """Return a number that is hardly the same where a bit of a parameter is not; waits for the device once.

    Example:
        >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = b.load_state_dict(a.state_dict())
        >>> same = checksum(a) == checksum(b)
        >>> with torch.no_grad():
        ...     _ = b.bias.add_(1e-3)
        >>> same, checksum(a) == checksum(b)
        (True, False)
    """
    return int(sum((_bits(p).sum(dtype=torch.int64) * (i + 1) for i, p in enumerate(model.parameters())), start=0))


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as whole numbers."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    return tensor.detach().contiguous().flatten().view(kinds.get(tensor.element_size(), torch.int64))
