"""Running statistics of batch norm, computed anew for the weights that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from learner import Callback, CancelEpochException, Learner
from learner.data.loaders import Loaders, role_of
from learner.interrogate.layers import inside


def update_batch_norm(learn: Learner) -> None:
    """Compute the running statistics of batch norm anew: the mean over the batches of all training loaders.

    For weights that no training has led to, such as an average after `ema.apply(learn)`: the statistics in the model
    are those of others. It is one pass without gradients over each training loader, in which batch norm alone is in
    training mode. So nothing draws a random number, and dropout is off; after it generators, modes and metrics are as
    before. Layers that were put in evaluation mode in a model that trains are left as they are.

    Args:
        learn: the learner.

    Source: `torch.optim.swa_utils.update_bn`, which has the whole model in training mode.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        >>> x = torch.arange(4.0)[:, None]
        >>> learn = Learner(model, Loaders.from_arrays(train=(x, x), batch_size=2), nn.functional.mse_loss)
        >>> update_batch_norm(learn)
        >>> model[0].running_mean
        tensor([1.5000])
    """
    norms = trained_norms(learn.model)
    if norms:
        learn.dls = Loaders.of(learn.dls)
        renew(learn, norms, {name: None for name in learn.dls if role_of(name) == "train"})


def trained_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Return by name the batch norm layers whose running statistics change when a model trains.

    Those that are in evaluation mode while others are not were put there to stay.
    """
    modules = dict(inside(model).named_modules())
    is_trained = any(module.training for module in modules.values())
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.training == is_trained
    }


def renew(learn: Learner, norms: Mapping[str, nn.Module], n_batches: Mapping[str, int | None]) -> None:
    """Compute the running statistics of these layers anew.

    Args:
        learn: the learner.
        norms: batch norm layers.
        n_batches: the loaders to pass over, and of each how many batches; None for all.
    """
    layers: list[Any] = list(norms.values())  # to mypy, any attribute of a module may be a tensor
    momenta, metrics = [layer.momentum for layer in layers], dict(learn.metrics)
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a mean over all batches, of each the same weight
        for name, n in n_batches.items():
            learn.side_pass(name, learn.dls[name], "infer", _TrainNorms(layers, n))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        learn.metrics.clear()  # in place: others may hold it
        learn.metrics.update(metrics)


class _TrainNorms(Callback):
    """Have some layers alone in training mode, for so many batches."""

    def __init__(self, layers: list[nn.Module], n_batches: int | None) -> None:
        self.layers, self.n_batches = layers, n_batches

    def before_epoch(self, learn: Learner) -> None:
        """Set the mode, which the pass puts back."""
        for layer in self.layers:
            layer.train()

    def after_batch(self, learn: Learner) -> None:
        """End the pass where the one that trained has ended: a loader may be endless."""
        if learn.i + 1 == self.n_batches:
            raise CancelEpochException
