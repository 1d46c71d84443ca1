"""The loop: fit -> epoch -> batch. Start reading at `Learner._batch`: it is the whole of a training step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from learner.checkpoint.resume import Resumption, find_resumption
from learner.checkpoint.saving import load as _load
from learner.checkpoint.saving import save as _save
from learner.data.feed import preds_of
from learner.data.loaders import Loaders, role_of
from learner.data.rounds import beside_training
from learner.errors import (
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    LearnerError,
)
from learner.history import Averages, History
from learner.inference.calls import export as _export
from learner.inference.calls import infer as _infer
from learner.interrogate.predictor import Predictor
from learner.loop.callbacks import checked_callbacks, flattened
from learner.loop.checks import (
    bad_loss,
    checked_functions,
    checked_length,
    checked_lr,
    unusual_loss,
)
from learner.loop.closure import step_with_closure
from learner.loop.describe import describe_learner
from learner.loop.diagnose import annotate
from learner.loop.dispatch import Dispatch, bind_actions, unbound_state
from learner.loop.evaluation import EvaluationWeights, evaluated, trained_then_evaluated
from learner.loop.extensions import batch_size_find as _batch_size_find
from learner.loop.extensions import interpret as _interpret
from learner.loop.extensions import lr_find as _lr_find
from learner.loop.foreign import missing_attribute, names_arguments, no_data_in_action
from learner.loop.frequency import Decision, Gate
from learner.loop.gather import get_preds as _get_preds
from learner.loop.interrupts import Pending, deferred_interrupts, stop_if_interrupted
from learner.loop.naming import declare_signals
from learner.loop.passes import (
    PASS_STATE,
    close_pass,
    count_batch,
    end_early,
    one_batch_each,
    open_pass,
    record_pass,
)
from learner.loop.passes import log as _log
from learner.loop.plan import plan_html, plan_text
from learner.loop.prepare import drop_batch, end_training, prepare_training, settle_pass, skip_step
from learner.loop.rates import BaseRates
from learner.loop.restart import Restart
from learner.loop.state import pass_mode, remember_learner
from learner.loop.steps import StepWatch, check_steps, require_progress
from learner.loop.summary import summary as _summary
from learner.loop.surroundings import alone_in_its_thread
from learner.loop.tell import tell
from learner.loop.throughput import Throughput
from learner.loop.timed import timed as _timed
from learner.loop.types import Handler
from learner.ranks.job import ALONE, Job
from learner.replay.branch import branch as _branch
from learner.replay.hindsight import hindsight as _hindsight
from learner.replay.rewind import rewind as _rewind

OptFunc = Callable[..., torch.optim.Optimizer]

# What the batch before leaves is forgotten when one begins, so that nothing stale is ever read.
_NEW_BATCH = {
    **dict.fromkeys(("weight", "global_batch_size", "global_weight", "xb", "yb", "output", "preds", "loss")),
    "batch_size": 0,
    "is_mixed": False,
    "is_in_batch": True,
    "_is_counting": True,
    "_has_stepped": False,
}


class Learner:
    """Train a model: a loop of three stages that tells callbacks where it is, and holds the state they share.

    It prints nothing by itself: to see how a fit goes, add `callbacks.ProgressCallback()`.

    Args:
        model: what is trained.
        dls: named loaders; anything `Loaders.of` takes: a mapping, a pair (train, valid), an object with both.
        loss_f: `loss_f(preds, yb)`, a scalar; None for models whose output carries a `loss`.
        lr: learning rate of the next fits.
        opt_func: called as `opt_func(params, lr=lr)` at the first fit; the optimizer is kept by later ones. One with
            `takes_model = True`, as `learner.optim.param_groups` makes it, is called as `opt_func(model, lr=lr)`, with
            `loss_f=loss_f` besides where the loss is a module with parameters.
        cbs: callbacks.
        predictor: what feeds batches to the model, if the default does not fit.

    Shared state, for callbacks to read; what may be replaced, and where, is said with the signal:

    | attribute | type | what |
    |---|---|---|
    | `model` | `nn.Module` | what is trained |
    | `dls` | `Loaders` | loaders by name |
    | `loss_f`, `lr`, `opt_func` | | as given; the rate now is in `opt.param_groups` |
    | `opt` | `Optimizer` or None | None before the first fit |
    | `cbs` | `tuple` | callbacks, in the order given; `add_cb` and `remove_cb` change them |
    | `predictor` | `Predictor` | between a batch and the model |
    | `n_epochs`, `steps` | `int` or None | epochs that were asked for, or optimizer steps: one of them is None |
    | `first_step` | `int` | optimizer steps that were made before this fit began |
    | `epochs`, `epoch` | iterable, `int` | what is looped over; now, from 0 |
    | `dl`, `dl_name` | iterable, `str` | the loader of this pass |
    | `role`, `training` | `str`, `bool` | of this pass: train, valid or infer; whether it trains |
    | `is_side_pass` | `bool` | whether it was asked for, by `validate` or `get_preds`, and is none of the fit's own |
    | `i`, `n_batches` | `int`, `int` or None | batch in this pass, from 0; how many there will be, if known |
    | `n_steps`, `n_samples` | `int` | optimizer steps, training samples, since the learner was made |
    | `n_skipped` | `int` | steps that were due and not made, since the learner was made |
    | `pass_state` | `dict` | what callbacks carry from batch to batch: new in each pass, in checkpoints |
    | `batches_per_step` | `int` | training batches that share one optimizer step |
    | `is_in_batch` | `bool` | whether a batch is worked on, not fetched |
    | `batch`, `xb`, `yb` | any | what the loader gave; what goes into the model; the target or None |
    | `batch_size` | `int` or None | samples in this batch; None where `predict` has to set it |
    | `is_mixed` | `bool` | whether a callback has mixed the samples of this batch: they are none of the dataset |
    | `global_batch_size` | `int` or None | samples of this batch in all processes of the job; None: `batch_size` |
    | `weight` | number, 0-d tensor or None | what the loss of this batch is a mean over; None: `batch_size` |
    | `output`, `preds` | any | what the model returned; its predictions (the logits, where it returns more) |
    | `loss` | 0-d tensor or None | of this batch |
    | `metrics` | `dict` | `metrics[dl_name][metric]` of the last pass over that loader |
    | `history` | `History` | a row per epoch |
    | `job` | `Job` | the processes that train together: `rank`, `world`, `is_first` |
    | `throughput` | `Throughput` | samples a second, and the share of waiting, of this pass or the last one |
    | `best` | any | the best epoch of the fit and its value, where a callback keeps it; else None |
    | `in_sandbox` | `bool` | whether all of this will be undone: write no files |
    | `is_resumed` | `bool` | whether this fit goes on from a checkpoint: keep what is on record |
    | `resume` | `bool` or path | as `fit` was asked; where there was no checkpoint yet, `is_resumed` is False |
    | `ended_by` | exception or None | for clean-ups: what ended their stage before its end |
    | `interrupt` | exception or None | what will be raised when this batch is done: Ctrl-C or SIGTERM came |

    Raises:
        TypeError, ValueError: for arguments of the wrong kind, each with what to do.

    Example:
        >>> from learner import Learner, Loaders
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=16)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.1)
        >>> learn.fit(10)
        >>> learn.validate()["loss"] < 0.1
        True
    """

    signals: ClassVar[tuple[str, ...]] = ()  # a subclass names signals of its own here
    state: ClassVar[tuple[str, ...]] = ()  # and here attributes of its own that checkpoints hold, as a callback does

    model: nn.Module
    dls: Loaders
    opt: torch.optim.Optimizer | None
    rates: BaseRates | None  # that `opt` was made with
    _outside: tuple[nn.Parameter, ...]  # trainable, and not in `opt`
    cbs: tuple[Any, ...]
    n_epochs: int | None
    steps: int | None
    epochs: Iterable[int]
    dl: Any
    dl_name: str
    role: str
    training: bool
    is_side_pass: bool
    i: int
    n_batches: int | None
    pass_state: dict[str, Any]
    batch: Any
    batch_size: int | None
    is_mixed: bool
    weight: Tensor | float | None
    global_batch_size: int | None
    global_weight: Tensor | float | None  # what the loss of this batch is a mean over in all processes of the job
    job: Job
    xb: Any
    yb: Any
    output: Any
    preds: Any
    loss: Any
    is_in_batch: bool
    metrics: dict[str, dict[str, float]]
    history: History
    throughput: Throughput
    best: Any
    resume: bool | str | os.PathLike[str]
    ended_by: BaseException | None
    interrupt: BaseException | None
    _pending: Pending  # a signal that has come; it is in `interrupt` from the next clean-up on
    _averages: Averages
    _needs_target: bool  # whether a batch of this pass without a target is an error
    _has_means: bool  # whether the pass has ended and its means were read
    _cut_short: str | None  # why a Cancel ended the pass, if one did
    _is_counting: bool  # whether a batch is worked on whose values count when it went well
    _has_stepped: bool  # whether this batch has made an optimizer step
    _decisions: dict[Gate, Decision]  # of callbacks that are not always called, in this pass
    _logged: list[tuple[str, Tensor | float]]  # of this batch, while it is counting
    _modes: list[tuple[nn.Module, bool]]  # train/eval flags as they are outside of this pass
    _by_hand: dict[str, Callable[[], None]]  # actions that were set as attributes
    _watch: StepWatch | None  # of `opt`, while something else makes the step
    _evaluation: EvaluationWeights | None  # of `opt`, while a fit runs, if it has some of its own
    _needs_closure: bool  # whether `opt` asks for the loss again within a step
    _is_lr_asked: bool  # whether this fit was given one
    _n_steps_before: int  # when this pass began
    _n_skipped_before: int
    _n_skipped_at_step: int  # at the end of the last epoch of this fit that made a step
    _has_dropped: bool  # whether a training batch of this pass was cancelled
    _has_loss: bool  # whether `loss_f` has taken a batch of this pass
    first_step: int  # of the optimizer, when this fit began
    _last_step: float  # at which it ends; infinite where epochs were asked for
    _n_done: int  # epochs of this fit that are whole
    _lr_of_fit: float
    _is_waiting_told: bool  # whether it was said that much of a pass was waiting for the loader

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the subclass's own signals known to callbacks."""
        super().__init_subclass__(**kwargs)
        declare_signals(cls.__name__, cls.signals)
        inherited = [signal for base in reversed(cls.__mro__) for signal in vars(base).get("signals", ())]
        cls.signals = tuple(dict.fromkeys(inherited))

    @names_arguments
    def __init__(
        self,
        model: nn.Module,
        dls: Any,
        loss_f: Callable[..., Any] | None = None,
        lr: float = 0.1,
        opt_func: OptFunc = torch.optim.SGD,
        cbs: Any = None,
        *,
        predictor: Predictor | None = None,
    ) -> None:
        self.predictor = predictor or Predictor(model)
        if self.predictor.model is not model:
            raise ValueError("`predictor` must hold the learner's own model, got another; make it of `model`.")
        checked_functions(loss_f, opt_func)
        self.model, self.loss_f, self.opt_func = model, loss_f, opt_func
        self.dls, self.lr = Loaders.of(dls), checked_lr(lr)
        self.opt = None
        self.rates, self._outside, self._watch, self._evaluation, self._needs_closure = None, (), None, None, False
        self.n_epochs, self.steps, self.epochs, self.epoch = 0, None, (), 0
        self.first_step, self._last_step, self._n_skipped_at_step = 0, math.inf, 0
        self.n_steps, self.n_skipped, self.n_samples, self.batches_per_step = 0, 0, 0, 1
        self.metrics, self.history, self.best = {}, History(), None
        self.throughput, self._is_waiting_told = Throughput(), False
        self.resume, self.is_resumed = False, False
        self.ended_by, self.interrupt, self._pending = None, None, Pending()
        self.in_sandbox, self._is_fitting, self._n_passes, self._n_done = False, False, 0, 0
        open_pass(self, "", (), "train")
        self.cbs, self._dispatch, self.job = (), Dispatch(()), ALONE
        self._tell_predictor()
        self._bound, self._by_hand = dict[str, Callable[[], None]](), {}
        self._set_callbacks(flattened(cbs))

    # -- the loop ------------------------------------------------------------------------------------------

    def fit(
        self,
        n_epochs: int | None = None,
        lr: float | None = None,
        cbs: Any = None,
        *,
        steps: int | None = None,
        overfit: bool = False,
        resume: bool | str | os.PathLike[str] = False,
    ) -> None:
        """Train for some epochs, each a pass over every loader, in order; or for some optimizer steps.

        A first Ctrl-C or SIGTERM lets the batch and all clean-ups end, then raises `KeyboardInterrupt`, or `SystemExit`
        with status 143; a second one is obeyed at once.

        All threads of a process share the random generators of Python, NumPy and torch, and a validation puts them
        back: run fits that are to go on at the same time in processes of their own. A second thread warns.

        Args:
            n_epochs: rounds over the loaders; 0 emits the signals of the fit alone.
            lr: learning rate to start from; the learner's own if left out.
            cbs: callbacks for this call only.
            steps: in place of `n_epochs`: optimizer steps to be made, exactly, over as many epochs as it takes. The
                pass that makes the last one ends there, and the other loaders of its epoch have their turn.
            overfit: whether to see one batch of each loader only, always the same: a model that cannot learn that by
                heart has a fault. `callbacks.OverfitCallback` takes more.
            resume: whether to go on from the newest checkpoint of this learner's `CheckpointCallback`, in the middle of
                an epoch if it is of there, or to begin anew, and say so, where there is none yet; or the path of a
                checkpoint, or of a folder that has one. `n_epochs` or `steps` is that of the whole fit.

        Raises:
            LearnerError: if there is nothing to train, a pass of this learner is running, or a checkpoint does not fit;
                lists what differs.
            TypeError, ValueError: if an argument is of the wrong kind or out of range.
        """
        if self._is_fitting or self._n_passes:
            raise LearnerError("`fit` must not be called while this learner runs; use `validate`, or a learner more.")
        n_epochs, steps = checked_length(n_epochs, steps)
        with (
            Restart() as restart,
            self.added(cbs),
            one_batch_each(self, overfit),
            deferred_interrupts(self),
            alone_in_its_thread(),
        ):
            start = find_resumption(self, resume)
            self.n_epochs, self.steps, self.resume, self.epoch = n_epochs, steps, resume, start.n_done if start else 0
            prepare_training(self, None if lr is None else checked_lr(lr))
            self.epochs = count() if n_epochs is None else range(n_epochs)
            self.first_step, self._n_skipped_at_step = start.first_step if start else self.n_steps, self.n_skipped
            self._last_step = math.inf if steps is None else self.first_step + steps
            owed, self.is_resumed, self._n_done, self._is_fitting = list[Handler](), start is not None, 0, True
            try:
                with start.put_back_around(self) if start else nullcontext():
                    self._dispatch.enter(self, "fit", owed)
                with trained_then_evaluated(self):
                    for name, dl, begin in self._passes(start):
                        try:
                            self._epoch(name, dl, role_of(name), start=begin)
                        finally:  # what was measured is on record, also if a callback has ended the pass or the fit
                            record_pass(self, name)
                self.callback("after_fit")
                self.job.gather(None, at="the end of a fit")  # so that all hear of one that has failed in it
            except CancelFitException as cancel:
                self.job.tell(self, cancel)
                self._dispatch.leave(self, "fit", owed, cancel)
            except BaseException as error:
                annotate(error, self, "fit")
                self.job.tell(self, error)
                self._dispatch.leave(self, "fit", owed, error)
                raise
            else:
                self._dispatch.leave(self, "fit", owed)
            finally:
                self._is_fitting = False
                end_training(self)
        open_pass(self, "", (), "train")  # lets go of the last batch
        restart.go_on(self, n_epochs=n_epochs, lr=lr, cbs=cbs, steps=steps, overfit=overfit)

    def _passes(self, start: Resumption | None) -> Iterator[tuple[str, Any, Resumption | None]]:
        """Yield the passes of a fit, epoch after epoch; from where a checkpoint was taken, if it goes on from one."""
        for self.epoch in self.epochs:
            if self.n_steps >= self._last_step and (start is None or not start.i):
                return
            is_whole, n_steps, n_skipped = start is None, self.n_steps, self.n_skipped
            for name, dl in self.dls.items():
                role = role_of(name)
                if role == "test" or (start is not None and not start.is_at(self, name)):
                    continue
                if start is not None or role != "train" or self.n_steps < self._last_step:
                    yield name, dl, start
                    start = None
            self._n_done += 1
            if is_whole:
                require_progress(self, n_steps, n_skipped)

    def _epoch(
        self, name: str, dl: Any, role: str, is_side_pass: bool = False, start: Resumption | None = None
    ) -> None:
        """Run one pass over one loader, or what is left of one."""
        open_pass(self, name, dl, role, is_side_pass)
        outer, self.throughput = self.throughput, Throughput()
        self.i = start.i if start else 0
        self.metrics.pop(name, None)
        self._tell_predictor()
        self._n_passes += 1
        owed: list[Handler] = []
        with pass_mode(self.model, dl, training=self.training) as self._modes, evaluated(self):
            try:
                self._dispatch.enter(self, "epoch", owed)
                settle_pass(self)
                for self.i, self.batch in self.throughput.measure(
                    start.enter_pass(self) if start else enumerate(self._dispatch.batches_of(self))
                ):
                    self._batch()
                    if self.interrupt is not None:
                        stop_if_interrupted(self)
                    if self.n_steps >= self._last_step and self.training:
                        break
                close_pass(self)
                self.callback("after_epoch")
                check_steps(self)
            except BaseException as error:
                if not isinstance(error, CancelException):
                    annotate(error, self, f"the loader, batch {self.i + (self.batch is not None)}")
                error = end_early(self, error)  # or what has ended the pass in another process
                self._dispatch.leave(self, "epoch", owed, error)
                if not isinstance(error, CancelEpochException):
                    raise error  # another name would keep it, and the batch with it
            else:
                self._dispatch.leave(self, "epoch", owed)
            finally:
                self._n_passes -= 1
                if self._n_passes:
                    outer.leave_out(self.throughput)
                    self.throughput = outer

    def _batch(self) -> None:
        """Run one batch: the whole of a training step, from top to bottom."""
        vars(self).update(_NEW_BATCH, _logged=[])
        owed: list[Handler] = []
        has_gradients = False
        try:
            try:
                self._dispatch.enter(self, "batch", owed)
                split = self.predictor.split(self.batch, self.loss_f is None, self._needs_target)
                self.xb, self.yb, self.batch_size = split
                self.predict()
                self.callback("after_predict")
                if self.role != "infer":
                    self.get_loss()
                    self.callback("after_loss")
                if self.training:
                    has_gradients = True
                    self.backward()
                    self.update()
            except CancelStepException as cancel:
                skip_step(self, cancel, has_gradients)
            self.callback("after_batch")
            count_batch(self)
        except CancelException as cancel:
            cancel = drop_batch(self, cancel)  # type: ignore[assignment]  # or what ended it in another process
            self._dispatch.leave(self, "batch", owed, cancel)
            if not isinstance(cancel, CancelBatchException):
                raise cancel  # another name would keep it, and the batch with it
        except BaseException as error:
            annotate(error, self, "the batch")
            self.job.tell(self, error)
            self._dispatch.leave(self, "batch", owed, error)
            raise
        else:
            self._dispatch.leave(self, "batch", owed)
        self.is_in_batch = False

    def update(self) -> None:
        """Make one optimizer update with the gradients that are there: `after_backward` to `zero_grad`.

        Part of every training batch; a callback that puts steps off calls it for what is left at the end.
        """
        self.callback("after_backward")
        self.step()
        self.n_steps += 1
        self._has_stepped = True
        try:  # noqa: SIM105  # a context manager costs more than all the rest of this
            self.callback("after_step")
        except CancelStepException:  # the step is made: there is nothing left to leave out
            pass
        self.zero_grad()

    # -- the actions: override them in a subclass; own or wrap them in a callback ------------------------------

    def predict(self, *data: Any) -> None:
        """Write `output` and `preds` from `xb`; takes no data, which `get_preds` does."""
        if data:
            raise no_data_in_action("predict", data)
        output = self.output = self.predictor.feed(self.model, self.xb)
        self.preds = output if isinstance(output, Tensor) else preds_of(output)

    def get_loss(self) -> None:
        """Write `loss` from `preds` and `yb`."""
        is_usual = self._has_loss and self.loss_f is not None and isinstance(self.yb, Tensor)
        loss = self.loss = self.loss_f(self.preds, self.yb) if is_usual else unusual_loss(self)  # type: ignore[misc]
        if not isinstance(loss, Tensor) or loss.numel() != 1 or (self.training and not loss.requires_grad):
            raise bad_loss(loss)

    def backward(self) -> None:
        """Add the gradient of `loss` to the parameters' `.grad`."""
        self.loss.backward()

    def step(self) -> None:
        """Let the optimizer change the parameters; one that needs a closure (L-BFGS) gets one."""
        if self._needs_closure:
            step_with_closure(self)
        else:
            self.opt.step()  # type: ignore[union-attr]  # there is one while training

    def zero_grad(self) -> None:
        """Clear the gradients for the next batch, of all that is trainable, in the optimizer or not."""
        self.opt.zero_grad()  # type: ignore[union-attr]
        for parameter in self._outside:
            parameter.grad = None

    # -- signals -----------------------------------------------------------------------------------------------

    def callback(self, signal: str) -> None:
        """Emit a signal: call every listener in order.

        Raises:
            ValueError: if this learner has no signal of that name.
        """
        handlers = self._dispatch.listeners.get(signal)
        if handlers is None:
            raise ValueError(
                f"`signal` must be one of {', '.join(self._dispatch.listeners)}, got {signal!r}; a subclass of "
                f"Learner declares its own in `signals`."
            )
        for handler in handlers:
            try:
                handler(self)
            except CancelException:
                raise
            except BaseException as error:
                annotate(error, self, self._dispatch.name_of(handler, signal))
                raise

    # -- callbacks ---------------------------------------------------------------------------------------------

    def add_cb(self, cbs: Any) -> None:
        """Add a callback or several; all of them or, with an error, none.

        Raises:
            TypeError, ValueError: if one is no callback, is there already, or does not fit the others.
        """
        if new := flattened(cbs):
            self._set_callbacks([*self.cbs, *new])

    def remove_cb(self, cbs: Any) -> None:
        """Take off a callback or several that were added.

        Raises:
            ValueError: if one is not there.
        """
        gone = flattened(cbs)
        for cb in gone:
            if not any(cb is other for other in self.cbs):
                raise ValueError(f"`cbs` must be callbacks of this learner, got {cb!r}; see `learn.cbs`.")
        self._set_callbacks([cb for cb in self.cbs if not any(cb is other for other in gone)])

    @contextmanager
    def added(self, cbs: Any) -> Iterator[None]:
        """Have callbacks for a block of code, and take them off again however it ends."""
        new = flattened(cbs)
        self.add_cb(new)
        try:
            yield
        finally:
            if new:
                self._set_callbacks([cb for cb in self.cbs if not any(cb is other for other in new)])

    def _set_callbacks(self, cbs: list[Any]) -> None:
        """Resolve who listens to what and who takes over which action; nothing changes if that fails."""
        self._dispatch = self._dispatch.renewed(checked_callbacks(cbs, known=self.cbs), self.signals)
        self.cbs, self.job = tuple(cbs), self._dispatch.job
        bind_actions(self)

    def __getstate__(self) -> dict[str, Any]:
        return unbound_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        bind_actions(self)

    def plan(self, cbs: Any = None) -> None:
        """Print who is called at each signal and action, in the order in which they run; `cbs` are added for it."""
        with self.added(cbs):
            tell(plan_text(self._dispatch))

    def __repr__(self) -> str:
        return describe_learner(self)

    if not TYPE_CHECKING:  # else type checkers would take every name for one that is there

        def __getattr__(self, name: str) -> NoReturn:
            """Say what a name is here that other libraries have; called only for what is not there."""
            raise missing_attribute(self, name)

    def _repr_html_(self) -> str:
        return plan_html(self._dispatch)

    # -- passes that do not train ------------------------------------------------------------------------------

    def validate(self, name: str = "valid", cbs: Any = None) -> dict[str, float]:
        """Run one pass without gradients over a named loader; return its metrics.

        May be called while a fit runs: the state of its pass, the random generators and the modes of the model
        are as before when it returns. The generators are those of the whole process: what another thread draws
        meanwhile is drawn again, so do not call it while another thread trains; use a process for each.

        Raises:
            KeyError: if there is no loader of that name; lists those there are.
        """
        self.dls = Loaders.of(self.dls)
        self.side_pass(name, self.dls[name], "valid", cbs)
        return dict(self.metrics.get(name, {}))

    def side_pass(self, name: str, dl: Any, role: str = "infer", cbs: Any = None) -> None:
        """Run a pass without gradients over any loader, beside whatever runs, and give that its state back.

        What `validate` and `get_preds` do, and callbacks that look at data of their own choice.

        Args:
            name: what the pass is called, as a loader in `dls`; `metrics[name]` is that of this pass afterwards.
            dl: any iterable of batches.
            role: `valid` for forward and loss, `infer` for forward alone.
            cbs: callbacks for this pass only.
        """
        is_inside = self._is_fitting or self._n_passes > 0
        outer = {key: getattr(self, key) for key in PASS_STATE}
        if not is_inside:
            self._dispatch.restart(self.n_steps)
        try:
            with self.added(cbs):
                self._epoch(name, beside_training(dl), role, is_side_pass=True)
        except CancelFitException:
            vars(self).update(outer)
            if is_inside:
                raise
        except BaseException:
            if is_inside:  # else nothing goes on: leave the batch to be looked at
                vars(self).update(outer)
            raise
        else:
            vars(self).update(outer)
        finally:
            self._tell_predictor()  # of the pass around this one
            if not is_inside:
                self.job.end()

    @contextmanager
    def sandbox(self) -> Iterator[None]:
        """Try something out: all that training touches is put back at the end, also after an error.

        That is: weights, buffers, gradients, optimizer, random generators (the loaders' too), counters, history,
        train/eval flags, and what callbacks keep in plain containers, tensors and things with a state dict. Not
        files: callbacks that write look at `learn.in_sandbox`.
        """
        restore = remember_learner(self, by_reference=PASS_STATE)
        self.in_sandbox = True
        try:
            yield
        finally:
            restore()

    # -- what the rooms do with a learner: each function is written, and explained, in its own file ----------------

    get_preds = _get_preds
    infer = _infer
    interpret = _interpret
    lr_find = _lr_find
    batch_size_find = _batch_size_find
    summary = _summary
    timed = _timed
    log = _log
    save = _save
    load = _load
    export = _export
    rewind = _rewind
    branch = _branch
    hindsight = _hindsight

    def _tell_predictor(self) -> None:
        """Let the predictor know the model and whether it makes its loss itself; both may have been replaced."""
        owner, _ = self._dispatch.actions.get("predict", (None, ()))
        self.predictor.begin_pass(
            self.model,
            takes_target=self.loss_f is None,
            is_training=self.training,
            is_fed_by_hand=owner is not None or type(self).predict is not Learner.predict,
        )
