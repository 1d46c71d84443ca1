"""Train on several processes of which each holds a part of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy

from callbacks.scale.distributed import DistributedCallback
from callbacks.scale.gradients import copy_from_first, parameters_apart
from callbacks.scale.sharding import layers_to_shard, require_all_sharded, require_can_be_cut, reshard, shard
from learner import Learner, LearnerError
from learner.checkpoint.shards import is_model_in_shards
from learner.errors import CancelException
from learner.loop.tell import tell


class ShardCallback(DistributedCallback):
    """Train on all processes of a job as `DistributedCallback`, but let each hold a part of the model, by FSDP2.

    Parameters, gradients and what the optimizer remembers are cut along their first axis, a shard for each process. A
    layer of `layers` is gathered when it is computed, and let go; what is in none of them is gathered with the model.
    So name the blocks of a transformer, or what there is of that size. Shares, steps, metrics and predictions are those
    of `DistributedCallback`: any number of processes is the same training.

    The first fit puts the model in shards, with the first process's weights, and it stays so. From then on `validate`,
    `get_preds`, `export` and every call of the model have to be made by all processes. `learn.opt` goes on with the
    shards. A model that `fully_shard` has put in shards before, as one that is too large for a device, is taken as it
    is; so begin with `learn.fit(0)` where a sandbox, as `lr_find`, comes first. In one process nothing is cut.

    All processes agree before each forward as well. The same parameters have to have a gradient in all of them: a model
    that leaves out parts for some samples does not work. What looks at parameters or gradients by itself sees a shard;
    callbacks with `needs_whole_weights = True`, as `GradientStats`, are refused.

    A `CheckpointCallback` and `learn.save` write what is in shards to a folder beside the file, all processes together,
    on a disk that all of them see. It goes on with any number of processes, and with `DistributedCallback`.
    `learn.export` writes whole weights.

    Args:
        layers: what is gathered one at a time: names, globs, positions or modules, as for `HooksCallback`.
        mesh: of all processes, with one dimension; with two the model is cut along the second and there once for each
            place in the first. One of all processes if None.
        reshard_after_forward: whether a layer is let go between its forward and its backward: less memory, more
            exchange; or over how many processes it stays.
        mp_policy, offload_policy: as for `torch.distributed.fsdp.fully_shard`.
        agree: as for `DistributedCallback`; "batch" is before forward and backward.
        timeout: how long a process waits for the others [s].

    Attributes:
        job, rank, world, is_first: as for `DistributedCallback`.

    Reads:
        As `DistributedCallback`; `loss_f`, `cbs`.

    Writes:
        As `DistributedCallback`, but not `model`, whose parameters it replaces; `opt`, in place.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind; when a fit begins, if there is no such layer, if it
            has no parameters, or if two hold the same one.
        LearnerError: when a fit begins, if the loss or the optimizer has parameters that are not the model's, a
            callback needs whole weights, or the first fit is in a sandbox; else as `DistributedCallback`.

    Source:
        https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> learn = Learner(model, Loaders.from_arrays(train=(x, 2 * x), batch_size=4), nn.functional.mse_loss,
        ...                 cbs=ShardCallback(["0", "2"]))
        >>> learn.fit(1)
        >>> learn.job.world, learn.n_steps  # without a launcher
        (1, 5)
    """

    def __init__(
        self,
        layers: Iterable[Any],
        *,
        mesh: DeviceMesh | None = None,
        reshard_after_forward: bool | int = True,
        mp_policy: MixedPrecisionPolicy | None = None,
        offload_policy: OffloadPolicy | None = None,
        agree: Literal["step", "batch"] | None = "step",
        timeout: float = 1800.0,
    ) -> None:
        policies = {"mp_policy": (mp_policy, MixedPrecisionPolicy), "offload_policy": (offload_policy, OffloadPolicy)}
        for name, (policy, kind) in policies.items():
            if not isinstance(policy, kind | None):
                raise TypeError(f"`{name}` must be a {kind.__name__} of torch.distributed.fsdp, got {policy!r}.")
        super().__init__(agree=agree, timeout=timeout)
        self.job.is_in_shards = self.world > 1
        self.layers = layers
        self.mesh = self._checked_mesh(mesh)
        given = {name: policy for name, (policy, _) in policies.items() if policy is not None}
        if given and self.world == 1:
            names = " and ".join(f"`{name}`" for name in given)
            tell(f"{type(self).__name__}: one process cuts nothing, and does without {names}.")
        self._sharding = {"mesh": self.mesh, "reshard_after_forward": reshard_after_forward, **given}

    def _checked_mesh(self, mesh: Any) -> DeviceMesh | None:
        if mesh is None:
            kind = "cuda" if torch.cuda.is_available() else "cpu"
            return init_device_mesh(kind, (self.world,)) if self.world > 1 else None
        if not isinstance(mesh, DeviceMesh):
            raise TypeError(f"`mesh` must be a DeviceMesh of torch, got {mesh!r}.")
        if mesh.ndim > 2 or mesh.size() != self.world:
            raise ValueError(
                f"`mesh` must have one dimension or two, of all {self.world} processes, got {tuple(mesh.shape)}."
            )
        return mesh

    # -- fit -------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Look at `layers` in any case; refuse what cannot be shared, or cannot be cut."""
        layers_to_shard(learn.model, self.layers)
        super().before_fit(learn)

    def _check(self, learn: Learner) -> None:
        """Refuse a model that cannot be put in shards, or is so in part."""
        self._refuse_what_needs_whole_weights(learn)
        if is_model_in_shards(learn.model):
            require_all_sharded(learn.model, layers_to_shard(learn.model, self.layers))
        elif learn.in_sandbox:
            raise LearnerError(
                f"{type(self).__name__} puts a model in shards in its first fit, which a sandbox cannot undo; call "
                f"`learn.fit(0)` on all processes before."
            )
        else:
            require_can_be_cut(learn)

    def _prepare(self, learn: Learner) -> None:
        """Put the model in shards, if it is not."""
        if is_model_in_shards(learn.model):
            copy_from_first(list(learn.model.buffers()))
        else:
            shard(learn, layers_to_shard(learn.model, self.layers), **self._sharding)

    def _refuse_what_needs_whole_weights(self, learn: Learner) -> None:
        if names := [type(cb).__name__ for cb in learn.cbs if getattr(cb, "needs_whole_weights", False)]:
            raise LearnerError(
                f"`cbs` must hold nothing that needs whole weights or gradients beside {type(self).__name__}, got "
                f"{', '.join(names)}; leave it out, or use DistributedCallback."
            )
        if parameters_apart(learn):
            raise LearnerError(
                f"{type(self).__name__} must have all that is trained in `model`, got parameters of the loss or of the "
                f"optimizer alone, which would be whole beside shards; make them a part of the model, or use "
                f"DistributedCallback."
            )

    def _checksum(self, learn: Learner) -> int:
        """Return the same for any weights: each process holds a part of its own, so there is nothing to compare."""
        return 0

    # -- passes ----------------------------------------------------------------------------------------------------

    def cleanup_epoch(self, learn: Learner) -> None:
        """Let go of what a forward without a backward has left gathered."""
        super().cleanup_epoch(learn)
        reshard(learn.model)

    # -- batches ---------------------------------------------------------------------------------------------------

    def before_batch(self, learn: Learner) -> None:
        """Expect a forward of all processes."""
        super().before_batch(learn)
        if self.world > 1:
            self.job.owe_forward()

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Agree that all call the model, in which each sends what it holds of the weights."""
        if self.world == 1:
            action()
            return
        self.job.before_forward()
        self.job.during_backward(True)
        try:
            action()
        except CancelException as cancel:
            raise LearnerError(
                f"a forward of weights in shards must not be cancelled, got {type(cancel).__name__}: the other "
                f"processes are in it; cancel before it, in `before_batch`, or after it."
            ) from cancel
        self.job.during_backward(False)  # not after an error: the others wait for what does not come

    def settle_gradients(self, learn: Learner) -> None:
        """Leave gradients as they are: each backward has reduced them, for whole ones may not fit."""

    def _weightless(self, learn: Learner) -> Tensor:
        """Return the loss of a stand-in: its backward has to gather and to reduce what those of the others do."""
        return learn.loss * 0.0  # type: ignore[no-any-return]
