"""Take a learner along a fit that was, and stop before any batch of it.

The loop is one call that does not come back before it ends, and a person who looks at a batch writes a `with` block. So
each stretch of the way is a fit of its own that goes on from a place (`learner.replay.place`), and is left by an
exception before the batch to stop at. Going on from a place gives the same bits as not stopping there: that is what
checkpoints are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.callback import Callback
from learner.checkpoint.losses import Losses
from learner.checkpoint.ranks import of_this_rank
from learner.checkpoint.resume import Resumption
from learner.checkpoint.rng import rng_state
from learner.errors import LearnerError
from learner.loop.state import put_back_modes, remember_optimizer
from learner.loop.trainable import named_parameters
from learner.loop.types import Learner
from learner.replay.changes import BatchChange
from learner.replay.ids import BatchIds, Ids
from learner.replay.observers import with_own_observers
from learner.replay.place import Place


class _ReachedError(BaseException):
    """Leaves a fit where it is to be left. No `Exception`, so that no callback takes it for a failure of its own."""


class Now(NamedTuple):
    """How far a fit is, when a training batch is about to begin.

    Attributes:
        n_steps: optimizer steps that were made.
        epoch: which one, as the history numbers it.
        i: which batch of its pass.
        n_batches: training batches that are done, by the count of the checkpoints.
    """

    n_steps: int
    epoch: int
    i: int
    n_batches: int


Until = Callable[[Now], bool]  # tells whether a fit is where it is to be left, before each training batch


class Stop(NamedTuple):
    """Where a fit was left.

    Attributes:
        place: to go on from.
        now: how far it was.
        batch: as the loader gave it.
        ids: the numbers of its samples, or None where nobody knows.
        why_no_ids: why nobody does.
        loader: its name.
    """

    place: Place
    now: Now
    batch: Any
    ids: Ids | None
    why_no_ids: str | None
    loader: str


class Walk:
    """Go along a fit, from a checkpoint of it, as far as one says each time.

    Args:
        learn: a learner in a sandbox, made as the one that trained.
        path: of the checkpoint, to be named.
        state: what it holds.

    Attributes:
        stop: where it stands; None where the fit is over.
        first: the training batch that `losses` begin with, by the count of the checkpoints.
        n_steps_of_fit: how many steps there are in the end, once that was seen.
    """

    n_steps_of_fit: int

    def __init__(self, learn: Learner, path: Path, state: dict[str, Any]) -> None:
        self._learn, self._path = learn, path
        self._n_ranks = len(state.get("ranks", [None]))
        self._state, self._new = with_own_observers(learn, of_this_rank(learn, state))
        self._watch = _First(state["fit"]["options"])
        self._callbacks = [self._watch, _AtPass(self._watch), _Ids(self._watch)]
        self._put_back_start = _remember_start(learn)
        self.stop: Stop | None = None
        self.first: int = state["step"]

    @property
    def losses(self) -> list[float]:
        """The losses of all training batches that were gone through; reading waits for the device."""
        return self._watch.losses.read(self._learn.job)

    @property
    def is_exact(self) -> bool:
        """Whether as many processes have trained as there are here."""
        return self._n_ranks == self._learn.job.world

    @property
    def passed(self) -> list[Now]:
        """Where the fit was at each of these batches."""
        return self._watch.passed

    def samples_of(self, n: int) -> Ids | None:
        """Return the numbers of the samples in one of these batches, where they are known."""
        return self._watch.passed_ids[n]()

    @property
    def now(self) -> Now:
        """How far the fit is."""
        learn = self._learn
        return self._watch.now(learn, learn.i) if self.stop is None else self.stop.now

    def begin(self, until: Until) -> bool:
        """Go from the checkpoint to where a condition holds; return whether there is such a place."""
        resumption = Resumption(self._path, self._state, self._new, is_told=False)
        self.stop = self._fit(resumption, self._state, self.first, until)
        if self.stop is not None:
            self.stop.place.stand(self._learn)
        return self.stop is not None

    def go(self, until: Until | None) -> bool:
        """Go on to where a condition holds; return whether it does, else the learner stands where it stood.

        It may hold when the last batch is done; the fit then is over. None is for the end of the fit.
        """
        start = self.there()
        place = start.place.with_changes(self._learn)
        try:
            resumption = place.resumption(self._learn, self._path)
            self.stop = self._fit(resumption, place, start.now.n_batches, until or _never)
            is_there = until is None or self.stop is not None or until(self.now)
        except BaseException:
            self.go_back(start._replace(place=place))
            raise
        if self.stop is not None:
            self.stop.place.stand(self._learn)
        elif not is_there:
            self.go_back(start._replace(place=place))
        return is_there

    def look(self) -> None:
        """Run the next batch as training would, without a step; leave its gradients and what it gave."""
        stop, learn = self.there(), self._learn
        stop = stop._replace(place=stop.place.with_changes(learn))
        look = _Look()
        try:
            with learn.added(look):
                self._fit(stop.place.resumption(learn, self._path), stop.place, stop.now.n_batches, _never)
        finally:
            self.go_back(stop)
        for name, p in named_parameters(learn).items():
            p.grad = look.gradients.get(name)

    def change(self, change: Any) -> None:
        """Change something, and let all of it count: buffers and random numbers, too.

        Args:
            change: a function of the learner, or a `BatchChange`.

        Raises:
            TypeError: if the function returns something.
            LearnerError: if the model is another one then.
        """
        stop, learn = self.there(), self._learn
        model, shapes = learn.model, _shapes(learn)
        if isinstance(change, BatchChange):
            change.make(learn, stop.now.epoch, stop.now.i, stop.batch, stop.ids, stop.why_no_ids)
        elif (returned := change(learn)) is not None:
            raise TypeError(
                f"`change` must change the learner and return nothing, got {type(returned).__name__} from it."
            )
        if learn.model is not model or _shapes(learn) != shapes:
            raise LearnerError(
                "`change` must keep the model and the shapes of its parameters, for the rest of the fit is that of "
                "this model; change values, as `learn.model.weight.data.mul_(0.5)`."
            )
        self.stop = stop._replace(place=stop.place.with_changes(learn, is_whole=True))

    def go_back(self, stop: Stop) -> None:
        """Stand where one stood before."""
        self.stop = stop
        stop.place.stand(self._learn)

    @contextmanager
    def coming_back(self) -> Iterator[None]:
        """Stand at the end where one stood before; the learner itself is put back by a sandbox around this."""
        stop = self.there()
        try:
            yield
        finally:
            self.stop = stop

    def there(self) -> Stop:
        """Return where it stands.

        Raises:
            LearnerError: if the fit is over.
        """
        if self.stop is None:
            raise LearnerError("the fit is over: there is no batch to train any more; go to an earlier one.")
        return self.stop

    def _fit(self, resumption: Resumption, start: Place | dict[str, Any], n_done: int, until: Until) -> Stop | None:
        learn, fit = self._learn, self._state["fit"]
        self._watch.begin(start, n_done, until)
        self._put_back_start()
        learn.lr = fit["lr"]
        try:
            learn.fit(fit["n_epochs"], steps=fit["steps"], resume=resumption, cbs=self._callbacks)  # type: ignore[arg-type]
        except _ReachedError:
            return self._watch.stop
        self.n_steps_of_fit = learn.n_steps
        return None


def _remember_start(learn: Learner) -> Callable[[], None]:
    """Take down what a fit expects to find when it begins, not as it was in the middle: optimizer, flags of the model.

    A schedule has put its own into the groups of an optimizer meanwhile, and a callback may have added groups.
    """
    opt, rates = learn.opt, learn.rates
    restore = (lambda: None) if opt is None else remember_optimizer(opt)
    modes = [(module, module.training) for module in learn.model.modules()]
    trainable = [(p, p.requires_grad) for p in named_parameters(learn).values()]

    def put_back() -> None:
        learn.opt, learn.rates = opt, rates  # where there was none, the fit makes one
        restore()
        put_back_modes(modes)
        for p, requires_grad in trainable:
            p.requires_grad_(requires_grad)

    return put_back


def _never(now: Now) -> bool:
    return False


def _shapes(learn: Learner) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in named_parameters(learn).items()}


class _First(Callback):
    """Stand before all others in `before_batch`, and after all others in `cleanup_batch`."""

    order = -math.inf

    def __init__(self, options: list[dict[str, Any]]) -> None:
        self.options = options
        self.losses = Losses()
        self.passed: list[Now] = []
        self.passed_ids: list[Callable[[], Ids | None]] = []
        self.ids = BatchIds()
        self.stop: Stop | None = None
        self.rng: dict[str, Any] = {}
        self.place: Place | dict[str, Any] | None = None  # the last one at which the condition held
        self.n_done = 0
        self._until: Until = _never
        self._ids: Callable[[], Ids | None] = lambda: None  # of this batch

    def begin(self, start: Place | dict[str, Any], n_done: int, until: Until) -> None:
        """Be ready for a fit that goes on."""
        self.place, self.n_done, self._until, self.stop = start, n_done, until, None

    def now(self, learn: Learner, i: int) -> Now:
        """Return how far the fit is, if batch `i` of this pass comes next."""
        return Now(learn.n_steps, learn.history.state_dict()["start"] + learn.epoch, i, self.n_done)

    def is_there(self, learn: Learner, i: int) -> bool:
        """Tell whether the condition holds, if batch `i` of this pass comes next."""
        return self._until(self.now(learn, i))

    def before_epoch(self, learn: Learner) -> None:
        """Note the random generators: a place in the middle of the pass needs them."""
        if not learn.is_side_pass:
            self.rng = rng_state(learn)

    def before_batch(self, learn: Learner) -> None:
        """Leave the fit, if it is there; nothing has happened to the batch yet."""
        if not learn.training:
            return
        self._ids = self.ids.of_batch(learn)
        if not self.is_there(learn, learn.i):
            return
        place = self.place if isinstance(self.place, Place) else Place(learn, self.place)  # type: ignore[arg-type]
        ids = self._ids()
        why = self.ids.why_not(learn) if ids is None else None
        self.stop = Stop(place, self.now(learn, learn.i), learn.batch, ids, why, learn.dl_name)
        raise _ReachedError

    def cleanup_batch(self, learn: Learner) -> None:
        """Count a training batch; take the place down, if the next one is where to stop."""
        if not learn.training or isinstance(learn.ended_by, _ReachedError):
            return
        self.passed.append(self.now(learn, learn.i))
        self.passed_ids.append(self._ids)
        self.n_done += 1
        self.losses.add(learn)
        if self.is_there(learn, learn.i + 1):
            self.place = Place.taken_down(learn, learn.i + 1, self.rng, self.options)


class _AtPass(Callback):
    """Take a place down at the beginning of a training pass, when checkpoints have counted the pass before."""

    order = -999.5

    def __init__(self, first: _First) -> None:
        self.first = first

    def before_epoch(self, learn: Learner) -> None:
        if learn.training and not learn.i and self.first.is_there(learn, 0):
            self.first.place = Place.taken_down(learn, 0, self.first.rng, self.first.options)


class _Ids(Callback):
    """Listen to which samples a training pass holds, when all others have put their loaders in place."""

    order = math.inf

    def __init__(self, first: _First) -> None:
        self.first = first

    def before_epoch(self, learn: Learner) -> None:
        if learn.training:
            self.first.ids.begin_pass(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        if learn.training:
            self.first.ids.end_pass()


class _Look(Callback):
    """Leave the fit when the gradients of a batch are there, or when it is done where its step is put off."""

    order = math.inf

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor | None] = {}

    def after_backward(self, learn: Learner) -> None:
        self._leave(learn)

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            self._leave(learn)

    def _leave(self, learn: Learner) -> None:
        self.gradients = {
            name: None if p.grad is None else p.grad.clone() for name, p in named_parameters(learn).items()
        }
        raise _ReachedError
