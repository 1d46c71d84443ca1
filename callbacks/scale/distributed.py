"""Train on several processes as one would: each takes a share of every batch, and all hold the whole model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from callbacks.scale import alike, gradients
from callbacks.scale.replica import Replica, explained, is_own_forward
from learner import Callback, Learner, LearnerError
from learner.data.position import seed_of
from learner.data.resumable import ResumableLoaders
from learner.data.shares import Shares
from learner.errors import CancelException
from learner.loop.checks import sums_over_batch
from learner.loop.closure import refuse_closure
from learner.ranks.join import joined_job


class DistributedCallback(Callback):
    """Train on all processes of a job, by DistributedDataParallel, as one process would.

    Start the script that one process runs by `torchrun --nproc-per-node 2 train.py`, by `srun` within SLURM, or call
    `learner.ranks.launch` from a notebook. **A batch of the loader is the batch of the job**: it is cut into shares,
    one for each process. So any number of processes makes the same steps: batch size, schedules, history, metrics,
    records, predictions and checkpoints mean what they mean in one process, and weights are the same to rounding. Who
    thinks of a batch for each GPU makes the loader's so many times as large.

    Make it before data and model, for it joins the processes and chooses this one's CUDA device. Without a launcher it
    trains alone, in the order and with the noise of any other number.

    Who cancels, fails or is interrupted does so with all processes, and none is left waiting. Callbacks with
    `ranks = "first"` are called in the first process alone, as those that show and write.

    What is not the same: a layer that looks across the batch, such as batch norm, sees shares (`sync_batchnorm`); so do
    the collate function, a `BatchTransformCallback` and metrics that are no mean over samples and no object. Statistics
    of activations and gradients are those of the first process. `docs/guides/processes.md` says more.

    Args:
        agree: when processes agree within a training batch: before the backward and before the "step"; before the
            backward, once a "batch"; or None, which leaves the others waiting if one of them fails or cancels. Before a
            forward in which they exchange buffers they agree as well.
        timeout: how long a process waits for the others [s].
        sync_batchnorm: whether batch norm sees the whole batch; needs CUDA.
        broadcast_buffers, find_unused_parameters, bucket_cap_mb: as for `DistributedDataParallel`.

    Attributes:
        job: the processes, which is `learn.job` where this is among the callbacks.
        rank, world, is_first: which of how many this is, from 0.

    Reads:
        `batch`, `batch_size`, `weight`, `loss`, `training`, `opt`, `model`, `loss_f`.

    Writes:
        `dl`; `global_batch_size`, `global_weight`; `model` while it predicts; `loss` while gradients are computed.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind; for `sync_batchnorm` without CUDA.
        LearnerError: when a fit begins, on all processes, if they differ in model, loaders, callbacks or length of the
            fit, naming the difference; if a process is gone, or somewhere else in the program.

    Example:
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=DistributedCallback())
        >>> learn.fit(1)
        >>> learn.job.world, learn.n_steps  # without a launcher
        (1, 5)
    """

    order = -90

    def __init__(
        self,
        *,
        agree: Literal["step", "batch"] | None = "step",
        timeout: float = 1800.0,
        sync_batchnorm: bool = False,
        broadcast_buffers: bool = True,
        find_unused_parameters: bool = False,
        bucket_cap_mb: int = 25,
    ) -> None:
        if agree not in ("step", "batch", None):
            raise ValueError(f"`agree` must be 'step', 'batch' or None, got {agree!r}.")
        if sync_batchnorm and not torch.cuda.is_available():
            raise ValueError("`sync_batchnorm` must have CUDA, which is not there: torch has no other; leave it out.")
        self.sync_batchnorm = sync_batchnorm
        self._replica = Replica(
            broadcast_buffers=broadcast_buffers,
            find_unused_parameters=find_unused_parameters,
            bucket_cap_mb=bucket_cap_mb,
        )
        self.job = joined_job(agree, timeout)
        self._loaders = ResumableLoaders()
        self._passes: list[Shares] = []  # of this pass and those around it
        self._told = set[tuple[str, str]]()  # of loaders that are read whole, and why
        self._apart: list[nn.Parameter] = []  # trained in this pass, and no part of the model
        self._is_synced = False  # whether the last backward has averaged the gradients
        self._adds_up = False  # whether the loss is a sum over the batch

    @property
    def rank(self) -> int:
        """Which of the processes this is, from 0."""
        return self.job.rank

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.job.world

    @property
    def is_first(self) -> bool:
        """Whether this is the process that shows and writes."""
        return self.job.is_first

    # -- fit -------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Refuse what cannot be shared; let each process draw noise of its own."""
        self._loaders = ResumableLoaders()
        self._adds_up = sums_over_batch(learn.loss_f)
        if self.world == 1:
            return
        if isinstance(learn.model, DistributedDataParallel):
            raise LearnerError(
                f"`model` must be the plain one, got it in DistributedDataParallel, which {type(self).__name__} puts "
                f"around it for each forward; pass `model.module`."
            )
        refuse_closure(learn, type(self).__name__, ", by a loss that is that of its own share")
        if self.sync_batchnorm:
            learn.model = nn.SyncBatchNorm.convert_sync_batchnorm(learn.model)  # type: ignore[no-untyped-call]
            learn._tell_predictor()
        self._check(learn)
        seed = self.job.from_first(torch.initial_seed, at="the seed of the noise")  # a word, before an exchange
        self._prepare(learn)
        alike.draw_own_noise(self.job, seed)

    def _check(self, learn: Learner) -> None:
        """Refuse a model that cannot be prepared."""
        alike.require_own_device(learn.model)

    def _prepare(self, learn: Learner) -> None:
        """Have the same weights everywhere."""
        gradients.copy_from_first([*learn.model.parameters(), *learn.model.buffers()])

    def cleanup_fit(self, learn: Learner) -> None:
        """Leave the plain model alone."""
        self._replica.drop()

    # -- passes ----------------------------------------------------------------------------------------------------

    def before_epoch(self, learn: Learner) -> None:
        """Take this process's shares of the batches; evaluate with the same buffers everywhere."""
        shares = Shares(self.rank, self.world)
        self._passes.append(shares)
        if not self._is_placed(learn):
            learn.dl = self._placed(learn)
        if self.world == 1:
            return
        if learn.training:
            self.job.owe()
        else:
            self.job.gather(None, at="the beginning of a pass")
            gradients.copy_from_first(list(learn.model.buffers()))
        alike.say_what_is_read_whole(learn, self._told)
        learn.dl = shares.of(learn.dl, learn.i)

    def _is_placed(self, learn: Learner) -> bool:
        """Tell whether the order of this pass is a function of position already."""
        if learn.is_side_pass:
            return False
        is_kept = any(hasattr(cb, "find_checkpoint") for cb in learn.cbs) and not learn.in_sandbox
        return is_kept or learn.dl is not learn.dls.get(learn.dl_name)

    def _placed(self, learn: Learner) -> Any:
        name, dl = learn.dl_name, learn.dl
        self._loaders.agree_on(self.job.from_first(lambda: {name: seed_of(dl)}, at="the seed of a loader"))
        epoch = 0 if learn.is_side_pass else learn.history.state_dict()["start"] + learn._n_done
        return self._loaders.get(name, dl).at(epoch, learn.i)

    def after_epoch(self, learn: Learner) -> None:
        """Make sure that all processes hold the same weights, when a pass has trained."""
        self._require_equal_weights(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Go back to the pass around this one."""
        if learn.ended_by is not None:
            self._require_equal_weights(learn)
        if self._passes:
            self._passes.pop()

    def _require_equal_weights(self, learn: Learner) -> None:
        has_failed = not self.job.can_agree or not isinstance(learn.ended_by, CancelException | None)
        if self.world == 1 or not learn.training or has_failed:
            return
        mine = learn.n_steps, learn.n_samples, self._checksum(learn)
        every = self.job.gather(mine, at="the end of training for this epoch")
        learn.n_samples = max(n for _, n, _ in every)  # one that cancelled a batch after its step has not counted it
        alike.require_equal_weights([(n, bits) for n, _, bits in every])

    def _checksum(self, learn: Learner) -> int:
        """Return a number that is another one where weights are others."""
        return gradients.checksum(learn.model)

    # -- batches ---------------------------------------------------------------------------------------------------

    def before_batch(self, learn: Learner) -> None:
        """Say how large the whole batch is; see what is trained, in the first one of a pass."""
        if self.world == 1:
            return
        self.job.begin_batch()
        shares = self._passes[-1]
        if learn.training and shares.now == (0, 0):  # the first batch: nobody freezes anything any more
            self._replica.look_at(learn.model)
            self._apart = gradients.parameters_apart(learn)
        shares.now = learn.global_batch_size, _ = shares.sizes.pop(learn.i)
        if shares.digest:
            digests, shares.digest = self.job.gather(shares.digest, at="the first batch of a pass"), ""
            alike.require_one_batch(learn.dl_name, digests)

    def around_predict(self, learn: Learner, action: Callable[[], None]) -> None:
        """Let the forward of training prepare the exchange of gradients."""
        if self.world == 1 or not learn.training:
            action()
            return
        is_own = is_own_forward(learn)
        if self.sync_batchnorm or (is_own and self._replica.exchanges_in_forward(learn.model)):
            self.job.before_forward()
        self._is_synced = False
        self.job.during_backward(self.sync_batchnorm)
        if is_own:
            self._predict_in_replica(learn, action)
        else:
            action()
        self.job.during_backward(False)  # not after an error: the others wait for what does not come

    def _predict_in_replica(self, learn: Learner, action: Callable[[], None]) -> None:
        is_synced = (learn.i + 1) % learn.batches_per_step == 0
        ddp, plain = self._replica.of(learn.model, is_synced), learn.model
        learn.model = ddp  # for the forward alone: everybody else finds the plain model
        try:
            with explained(plain, type(self).__name__), nullcontext() if is_synced else ddp.no_sync():
                action()
        finally:
            learn.model = plain
        self._is_synced = is_synced

    def around_backward(self, learn: Learner, action: Callable[[], None]) -> None:
        """Agree that all have a loss, and weigh this share of it, for what is exchanged is a mean over processes."""
        if self.world == 1:
            action()
            return
        mine = gradients.own_weight(learn, self._passes[-1].now[1])  # which may fail
        self.job.before_backward()
        loss, learn.loss = learn.loss, self._weighed(learn, mine)
        self.job.during_backward(True)
        action()
        self.job.during_backward(False)  # not after an error: the others wait for what does not come
        learn.loss = loss
        if self._is_synced:
            gradients.average(self._apart)

    def _weighed(self, learn: Learner, mine: Tensor | None) -> Tensor:
        """Return the loss, times this share's part of the whole, times the number of processes."""
        n, n_mine = self._passes[-1].now
        factor = gradients.factor_of_share(learn, mine, n, n_mine, adds_up=self._adds_up)
        return learn.loss * factor if n_mine else self._weightless(learn)

    def _weightless(self, learn: Learner) -> Tensor:
        """Return the loss of a stand-in: it takes part in the exchange by zeros, whatever its forward has given."""
        return gradients.zero_loss(learn, is_of_forward=self._replica.finds_unused)

    def after_backward(self, learn: Learner) -> None:
        """Average the gradients, where the forward was not the learner's own."""
        if self.world > 1 and learn.batches_per_step == 1:
            self.settle_gradients(learn)

    def settle_gradients(self, learn: Learner) -> None:
        """Average gradients that were not, at the end of a window; called when it is known that a step is made."""
        if self.world > 1 and not self._is_synced:
            self.job.before_exchange()
            gradients.average_all(learn)
            self._is_synced = True

    def get_ready_to_save(self, learn: Learner) -> None:
        """Have what a fit that goes on from a checkpoint has: averaged gradients, no order of exchange found yet."""
        self.settle_gradients(learn)
        self._replica.drop()

    def around_step(self, learn: Learner, action: Callable[[], None]) -> None:
        """Agree that all make the step."""
        self.job.before_step()
        action()

    def after_batch(self, learn: Learner) -> None:
        """Let a stand-in count for nothing."""
        if self.world == 1:
            return
        n, n_mine = self._passes[-1].now
        if not n_mine:
            learn.preds = learn.output = learn.loss = None
            learn.batch_size = 0
            learn.weight = 0.0
        elif self._adds_up and learn.weight is None and learn.loss is not None:
            learn.loss = learn.loss * (n / n_mine)  # so that means over shares are those of whole sums

    def cleanup_batch(self, learn: Learner) -> None:
        """Be ready for the next batch."""
        if learn.training:
            self.job.owe()
