"""A fit in the middle of it, as plain data, and how it goes on from there.

That is a snapshot (`learner.checkpoint.snapshot`) and, under `fit`, what there is only while a fit runs:

    n_done, loader, i   where it is: whole epochs, the name of the pass, batches of it that are done
    is_over             whether a callback has ended it
    n_epochs, steps, lr what was asked for
    first_step          optimizer steps that were made when it began
    loaders             what each loader must be like for the position to mean the same
    callbacks           their names, which of them only observe, and which of them are called every so often or for
                        some loaders
    options             those of the optimizer when the fit began, which a schedule may have changed since
    machine             what changes the last bits of a sum
    rng, modes          the random generators, and the train/eval flags, when this pass began
    gradients           of the parameters, None where there is none
    pass_state          what callbacks carry from batch to batch in this pass
    averages            of this pass
    ranks               beside `fit`, where several processes train: what each of them holds for itself
    paces               how far callbacks are that are called every so often
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from learner.checkpoint.callback_state import only_observes
from learner.checkpoint.counters import counters, put_back_counters
from learner.checkpoint.model import put_back_training
from learner.checkpoint.plain import plain
from learner.checkpoint.ranks import of_this_rank, with_all_ranks
from learner.checkpoint.rng import put_back_rng
from learner.checkpoint.shards import read_shards
from learner.checkpoint.snapshot import (
    all_or_nothing,
    differences,
    errors_as_one,
    put_back,
    refuse,
    snapshot,
    trained_weights,
)
from learner.data.loaders import Loaders
from learner.data.moving import to_device
from learner.data.wrapper import length_of
from learner.data.zipped import ZippedLoader
from learner.errors import CancelFitException, LearnerError
from learner.history import Averages
from learner.interrogate.layers import inside
from learner.loop.tell import tell
from learner.loop.trainable import named_parameters
from learner.loop.types import Learner

_OF_FIT = ("params", "lr")  # what a fit leaves in an optimizer's group, or sets anew


class Position(NamedTuple):
    """A place between two batches of a fit: epochs that are whole, the pass, batches of it that are done."""

    n_done: int
    loader: str
    i: int


def options_of(opt: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what an optimizer does with each group of parameters, but for the learning rate."""
    return [{key: value for key, value in group.items() if key not in _OF_FIT} for group in opt.param_groups]


def fit_state(
    learn: Learner, i: int, rng: Mapping[str, Any], options: Sequence[Mapping[str, Any]], *, is_over: bool = False
) -> dict[str, Any]:
    """Return all that the rest of a fit depends on, as plain data; tensors are the live ones, not copies.

    Args:
        learn: a learner in a fit, between two batches.
        i: how many batches of this pass are done; 0 before and after it.
        rng: of `rng_state`, when this pass began.
        options: of `options_of`, when the fit began.
        is_over: whether a callback has ended the fit.
    """
    names = {module: name for name, module in inside(learn.model).named_modules()}
    modes = learn._modes if learn._n_passes else ()  # after a pass they are what they are
    state = {
        **snapshot(learn),
        "fit": {
            **Position(learn._n_done, learn.dl_name if i else next(iter(learn.dls)), i)._asdict(),
            "is_over": is_over,
            "n_epochs": learn.n_epochs,
            "steps": learn.steps,
            "first_step": learn.first_step,
            "lr": learn._lr_of_fit,
            "loaders": {name: _kind_of(dl) for name, dl in Loaders.of(learn.dls).items()},
            "callbacks": callbacks_of(learn),
            "options": list(options),
            "machine": _machine(learn),
            "rng": dict(rng),
            "modes": {names[module]: is_training for module, is_training in modes if module in names},
            "gradients": {name: p.grad for name, p in named_parameters(learn).items()},
            "pass_state": learn.pass_state,
            "averages": learn._averages.state_dict(),
            "paces": learn._dispatch.state_dict(),
        },
    }
    return with_all_ranks(learn, state)


def between_fits(state: dict[str, Any]) -> dict[str, Any]:
    """Return the snapshot in a checkpoint of a fit, for a learner that begins another one.

    Raises:
        LearnerError: if it is none.
    """
    if "fit" not in state:
        return state
    with errors_as_one():
        fit, model, optimizer = state["fit"], state["model"], state["optimizer"]
        groups = list(optimizer["state"]["param_groups"])
        # An `initial_lr` that stays would be the base of the next schedule; a momentum, where a cycle was at.
        groups[: len(fit["options"])] = [
            {**{key: value for key, value in group.items() if key in _OF_FIT}, **options}
            for group, options in zip(groups, fit["options"], strict=False)
        ]
        return {
            **state,
            "model": {**model, "training": {**model["training"], **fit["modes"]}},
            "optimizer": {**optimizer, "state": {**optimizer["state"], "param_groups": groups}},
        }


class Resumption:
    """Put a checkpoint back while a fit begins, each part when what it goes into is there.

    Callbacks get their state when they have heard `before_fit`, and once more, in the middle of a pass, when they have
    heard `before_epoch`; so both may reset what they like.

    Args:
        path: of the checkpoint, to be named.
        state: what it holds.
        added: the `id` of each callback that was not there when it was taken; it begins anew.
        is_told: whether to say where the fit goes on.

    Raises:
        LearnerError: if it is of no fit.
    """

    def __init__(
        self, path: Path, state: Mapping[str, Any], added: Collection[int] = (), *, is_told: bool = True
    ) -> None:
        if "fit" not in state:
            raise LearnerError(
                f"`resume` must be a checkpoint of a fit, got {str(path)!r}, which `learn.save` wrote between two; do "
                f"`learn.load(path)`, then `fit`."
            )
        self._path, self._state, self._fit = path, dict(state), state["fit"]
        self._added, self._is_told = added, is_told
        with errors_as_one():
            self._at = Position(index(self._fit["n_done"]), str(self._fit["loader"]), index(self._fit["i"]))
            self.first_step = index(self._fit["first_step"])

    @contextmanager
    def put_back_around(self, learn: Learner) -> Iterator[None]:
        """Put back what callbacks look at when a fit begins, have them begin, put back the rest.

        Raises:
            LearnerError: if learner and checkpoint do not fit; lists what differs. Then nothing was changed but what
                callbacks did.
            CancelFitException: if a callback had ended the fit.
        """
        former, options = counters(learn), options_of(learn.opt)  # type: ignore[arg-type]  # there is one in a fit
        try:
            with errors_as_one():
                put_back_counters(learn, self._state["loop"])
            yield
            with errors_as_one():
                self._state = read_shards(self._state, self._path, learn.model, learn.job)
                self._fit = self._state["fit"]
                refuse([*differences(learn, learn.opt, self._state, self._added), *self._differences(learn)])
                unlike, words = self._unlike(learn), [*self._taken_over(learn, options), *self._words(learn)]
            if unlike:
                warnings.warn(
                    f"results may differ in the last bits from those of the run that goes on: {', '.join(unlike)}.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            with all_or_nothing(learn, self._state) as undoing:
                self._put_back(learn, undoing)
                put_back_training(learn.model, self._fit["modes"])
                Averages().load_state_dict(self._fit["averages"])  # which comes later, and has to go well
                put_back_rng(learn, self._state["rng"])
                if self._at.i:
                    put_back_rng(learn, self._fit["rng"])
        except BaseException:
            put_back_counters(learn, former)
            raise
        for line in words if self._is_told else ():
            tell(f"resume: {line}")
        if self._fit["is_over"]:
            raise CancelFitException

    def is_at(self, learn: Learner, name: str) -> bool:
        """Tell whether the fit goes on with this pass."""
        return (learn._n_done, name) == self._at[:2]

    def enter_pass(self, learn: Learner) -> Iterable[tuple[int, Any]]:
        """Put back what belongs to the pass, for the last time; return its batches that are left, numbered."""
        if not self._at.i:
            self._forget()
            return enumerate(learn._dispatch.batches_of(learn))
        with trained_weights(learn), ExitStack() as undoing:
            self._put_back(learn, undoing)
        if learn.training and learn.n_steps >= learn._last_step:
            self._forget()
            return ()
        learn._averages.load_state_dict(self._fit["averages"], _device(learn))
        learn.pass_state = to_device(plain(self._fit["pass_state"], copy=True), _device(learn) or torch.device("cpu"))
        batches = iter(learn._dispatch.batches_of(learn))  # which may draw, or read again what is done
        put_back_rng(learn, self._state["rng"])
        self._forget()
        return enumerate(batches, self._at.i)

    @property
    def n_done(self) -> int:
        """How many epochs are done."""
        return self._at.n_done

    @property
    def i(self) -> int:
        """The batch that comes next in its pass, from 0."""
        return self._at.i

    def _forget(self) -> None:
        """Hold what was read no longer: the fit that goes on keeps this object to its end."""
        self._state, self._fit = {}, {}

    def _put_back(self, learn: Learner, undoing: ExitStack) -> None:
        put_back(learn, learn.opt, self._state, undoing)
        for name, p in named_parameters(learn).items():
            grad = self._fit["gradients"][name]
            p.grad = None if grad is None else grad.to(p.device, copy=True)
        learn._dispatch.load_state_dict(self._fit["paces"])

    def _differences(self, learn: Learner) -> list[str]:
        """Say what of the loaders and of what was asked for is not as it was."""
        fit, found = self._fit, []
        here, saved = ({name: _kind_of(dl) for name, dl in Loaders.of(learn.dls).items()}, fit["loaders"])
        if list(here) != list(saved):
            found.append(f"the loaders are {list(here)} here, {list(saved)} saved")
        for name in here.keys() & saved.keys():
            for what in here[name].keys() | saved[name].keys():
                mine, theirs = here[name].get(what), saved[name].get(what)
                may_differ = what == "the number of batches" and None in (mine, theirs)  # known from the first pass on
                if mine != theirs and not may_differ:
                    found.append(f"{what} of loader {name!r} is {mine} here, {theirs} saved")
        if learn._lr_of_fit != fit["lr"]:
            found.append(f"the learning rate is {learn._lr_of_fit} here, {fit['lr']} saved")
        mine, theirs = callbacks_of(learn)["some"], fit["callbacks"]["some"]
        if mine != theirs:
            found.append(f"callbacks that are not always called are {mine} here, {theirs} saved")
        return found

    def _unlike(self, learn: Learner) -> list[str]:
        """Say what may change the last bits."""
        here, saved = _machine(learn), self._fit["machine"]
        return [f"{what} {here[what]} here, {saved[what]} saved" for what in here if here[what] != saved[what]]

    def _taken_over(self, learn: Learner, options: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Yield what will be as in the checkpoint, though a person may have meant to change it."""
        saved = self._state["model"]["requires_grad"]
        if names := [name for name, p in inside(learn.model).named_parameters() if p.requires_grad != saved[name]]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"`requires_grad` of {', '.join(names[:3])}{more} is as in the checkpoint, not as it was here."
        for i, (mine, theirs) in enumerate(zip(options, self._fit["options"], strict=False)):
            for name, value in mine.items():
                if name in theirs and not isinstance(value, torch.Tensor) and value != theirs[name]:
                    yield f"`{name}` of the optimizer's group {i} is {theirs[name]} as in the checkpoint, not {value}."

    def _words(self, learn: Learner) -> Iterator[str]:
        """Yield what a person should read: what is not as before and may be so, and where the fit goes on."""
        mine, theirs = (Counter(names["all"]) for names in (callbacks_of(learn), self._fit["callbacks"]))
        # Those that keep something were compared; of others nobody knows whether they matter.
        for word, names in (("without", theirs - mine), ("with", mine - theirs)):
            if names:
                yield f"{word} {', '.join(names.elements())}, unlike before."
        at, before = self._at, _asked_for(self._fit["n_epochs"], self._fit["steps"])
        n_epochs = length_of(learn.epochs)  # a callback may have its own
        of = "" if n_epochs is None else f" of {n_epochs}"
        then = "" if _asked_for(learn.n_epochs, learn.steps) == before else f", where {before} were asked for before"
        name, n = ("n_epochs", at.n_done) if learn.steps is None else ("steps", learn.n_steps - learn.first_step)
        more = f" `{name}` counts from the beginning of that fit: to train on, ask for more than {n}." if then else ""
        if self._fit["is_over"]:
            yield (
                f"{self._path} is of a fit that a callback has ended in epoch {at.n_done}; nothing is left. To train "
                f"on, do `learn.load(path)`, then `fit`."
            )
        elif n_epochs is not None and (at.n_done, at.i) > (n_epochs, 0):
            yield (
                f"{self._path} is further than the {n_epochs} epochs asked for{then}: its weights are those of epoch "
                f"{at.n_done}, and nothing is trained. Was it written by another fit? Give each a folder of its own."
            )
        elif n_epochs is not None and at.n_done >= n_epochs:
            done = f"{at.n_done} epoch{'' if at.n_done == 1 else 's'} done{of}"
            yield f"{self._path} has {done}{then}; nothing is left to train.{more}"
        elif learn.n_steps >= learn._last_step and not at.i:
            yield f"{self._path} has all {learn.steps} steps done{then}; nothing is left to train.{more}"
        else:
            where = f"batch {at.i} of loader {at.loader!r} in " if at.i else ""
            yield f"goes on with {where}epoch {at.n_done}{of}{then} ({self._path})."


def find_resumption(learn: Learner, resume: bool | str | os.PathLike[str] | Resumption) -> Resumption | None:
    """Return the checkpoint that a fit goes on from; None to begin anew.

    Args:
        learn: a learner that is about to begin a fit.
        resume: as `fit` takes it, or the checkpoint itself, where a replay has one in memory.

    Raises:
        TypeError: if `resume` is none of these.
        LearnerError: if no callback of the learner, or more than one, knows where the checkpoints are.
    """
    if isinstance(resume, Resumption):
        return resume
    if not isinstance(resume, bool | str | os.PathLike):
        raise TypeError(f"`resume` must be True, False or the path of a checkpoint, got {resume!r}.")
    if resume is False:
        return None
    keepers = [cb for cb in learn.cbs if hasattr(cb, "find_checkpoint")]
    if not keepers or (resume is True and len(keepers) > 1):
        raise LearnerError(
            f"`resume` must have one callback that knows where the checkpoints are, got {len(keepers)} in `cbs`; "
            + ("say which by `resume=path`." if keepers else "add a CheckpointCallback.")
        )
    keeper, path = keepers[0], None if resume is True else resume
    found = learn.job.from_first(lambda: keeper.find_checkpoint(path), at="the checkpoint to go on from")
    if found is None:
        return None
    path, state = found
    with errors_as_one():
        return Resumption(path, of_this_rank(learn, state))


def _asked_for(n_epochs: int | None, steps: int | None) -> str:
    return f"{n_epochs}" if steps is None else f"{steps} steps"


def callbacks_of(learn: Learner) -> dict[str, list[str]]:
    """Return the names of callbacks: of all, of those that only observe, and of those not always called."""
    gates = [(type(cb).__name__, learn._dispatch.gates.get(id(cb))) for cb in learn._dispatch.cbs]
    return {
        "all": [type(cb).__name__ for cb in learn.cbs],
        "observing": [type(cb).__name__ for cb in learn.cbs if only_observes(cb)],
        "some": [
            f"{name} every {gate.every.n} {gate.every.unit} of {', '.join(gate.patterns) or 'all'}"
            for name, gate in gates
            if gate
        ],
    }


def _kind_of(loader: Any) -> dict[str, Any]:
    """Return what a position in a loader depends on; not how it is read, as workers."""
    kind: dict[str, Any] = {"the number of batches": length_of(loader)}
    if isinstance(loader, DataLoader):
        kind["the number of samples"] = length_of(loader.dataset)
        kind["the batch size"] = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
        kind["the sampler"] = type(getattr(loader.batch_sampler, "sampler", loader.sampler)).__name__
    parts = loader.loaders.items() if isinstance(loader, ZippedLoader) else ()
    of_parts = {f"{what} of {name!r}": value for name, part in parts for what, value in _kind_of(part).items()}
    return {**kind, **of_parts}


def _device(learn: Learner) -> torch.device | None:
    return next((p.device for p in learn.model.parameters()), None)


def _machine(learn: Learner) -> dict[str, Any]:
    device = _device(learn)
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": None if device is None else device.type,
    }
