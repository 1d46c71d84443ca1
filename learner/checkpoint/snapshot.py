"""All that a learner holds between two fits, as plain data: taken down, compared, and put into another one.

A snapshot is a dict of tensors, numbers and strings, so that a file of it can be read without running any code:

    model       state_dict of the model (without wrappers), buffers that it leaves out, train/eval and requires_grad
                flags
    loss        the same of `loss_f`, where it is a module that holds anything; else None
    optimizer   its class and the names of what it trains, to be compared; its state_dict; base rates; the values of
                what neither model nor loss holds
    loop        counters, learning rate, history, metrics
    rng         Python's, NumPy's, torch's and the loaders' random generators
    callbacks   what callbacks keep, by name
    devices     which tensors of those were not on the CPU
    shown       names of the callbacks that only show and write, which nobody has to have again
    observing   names of these and of others that change nothing of the training, which a replay does without

Nothing is changed before all of it was compared: it fits as a whole, or one error lists what differs. What fails even
so, as a callback that does not understand what it kept, is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from learner.checkpoint.callback_state import (
    callback_differences,
    callback_state,
    devices_of,
    is_new,
    only_observes,
    only_shows,
    put_back_callback,
    put_on,
    stateful,
)
from learner.checkpoint.counters import counters, put_back_counters
from learner.checkpoint.exchange import Pair, exchanged, pairs_of, with_own_tensors
from learner.checkpoint.model import loss_differences, loss_module, model_differences, model_state, put_back_model
from learner.checkpoint.optimizer import optimizer_differences, optimizer_state, put_back_optimizer
from learner.checkpoint.plain import plain
from learner.checkpoint.rng import put_back_rng, rng_state
from learner.data.generators import remember_rng
from learner.data.loaders import Loaders
from learner.errors import LearnerError
from learner.loop.rates import BaseRates
from learner.loop.state import remember, remember_trained
from learner.loop.trainable import adopt, make_optimizer
from learner.loop.types import Learner

_N_LISTED = 10  # differences in an error
_WEIGHTS_ALONE = (
    " For the weights alone: `model.load_state_dict(learner.checkpoint.read_checkpoint(path)['model']['state'])`."
)


def snapshot(learn: Learner) -> dict[str, Any]:
    """Return all that a learner holds, as plain data; tensors are the live ones, not copies."""
    callbacks = {name: callback_state(name, cb) for name, cb in stateful(learn).items()}
    return {
        "model": model_state(learn.model),
        "loss": None if (loss := loss_module(learn)) is None else model_state(loss),
        "optimizer": None if learn.opt is None else optimizer_state(learn),
        "loop": counters(learn),
        "rng": rng_state(learn),
        "callbacks": callbacks,
        "devices": devices_of(callbacks),
        "shown": [name for name, cb in stateful(learn).items() if only_shows(cb)],
        "observing": [name for name, cb in stateful(learn).items() if only_observes(cb)],
    }


@contextmanager
def trained_weights(learn: Learner) -> Iterator[None]:
    """Have the weights that are trained in the model while a snapshot is taken.

    In a validation others may be in their place, which a callback has put there, or the optimizer.
    """
    with ExitStack() as stack:
        if learn._evaluation is not None:
            stack.enter_context(learn._evaluation.left())
        for cb in learn.cbs:
            if hasattr(cb, "trained_weights"):
                stack.enter_context(cb.trained_weights(learn))
        yield


def differences(
    learn: Learner, opt: torch.optim.Optimizer | None, state: Mapping[str, Any], added: Collection[int] = ()
) -> list[str]:
    """Say what of a learner, with this optimizer, is not as the one was that a snapshot was taken of.

    Args:
        learn: the learner.
        opt: its optimizer.
        state: the snapshot.
        added: the `id` of each callback that may be new.
    """
    callbacks, saved = stateful(learn), state["callbacks"]
    return [
        *model_differences("model", learn.model, state["model"]),
        *loss_differences(loss_module(learn), state["loss"]),
        *optimizer_differences(learn, opt, state),
        *(
            f"callback {name} is missing here"
            for name in saved
            if saved[name] and name not in {*callbacks, *state["shown"]}
        ),
        *(
            f"callback {name} is not in the file"
            for name, cb in callbacks.items()
            if id(cb) not in added and is_new(name, cb, saved)
        ),
        *callback_differences(callbacks, saved),
    ]


def refuse(found: Sequence[str], hint: str = "") -> None:
    """Raise one error that lists differences, if there are any, with a hint at its end.

    Raises:
        LearnerError: if so.
    """
    if found:
        more = len(found) - _N_LISTED
        listed = "; ".join(found[:_N_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise LearnerError(f"the learner must be made as the saved one was, but {listed}. Nothing was changed.{hint}")


def put_back(learn: Learner, opt: torch.optim.Optimizer | None, state: Mapping[str, Any], undoing: ExitStack) -> None:
    """Put a snapshot, all but the random generators, into a learner that does not differ from it.

    Args:
        learn: the learner.
        opt: its optimizer.
        state: the snapshot.
        undoing: puts the weights back as they were if it ends by an error; `all_or_nothing` does so with the rest.
    """
    pairs = _pairs(learn, state)
    undoing.enter_context(exchanged(pairs))
    put_back_model(learn.model, with_own_tensors(state["model"], pairs))
    if (loss := loss_module(learn)) is not None:
        put_back_model(loss, with_own_tensors(state["loss"], pairs))
    if opt is not None and state["optimizer"] is not None:
        put_back_optimizer(learn, opt, state["optimizer"])
        if state["optimizer"]["rates"] is None:
            learn.opt, learn.rates = opt, None
        else:
            if learn.rates is None or learn.rates.opt is not opt:
                adopt(learn, opt, is_own=False)
            rates: BaseRates = learn.rates  # type: ignore[assignment]  # it has just been made
            rates.load_state_dict(state["optimizer"]["rates"])
            rates.end_fit()
    put_back_counters(learn, state["loop"])
    device = next((p.device for p in learn.model.parameters()), torch.device("cpu"))
    for name, cb in stateful(learn).items():
        if name not in state["callbacks"]:
            continue
        # A copy, for it may be put back once more.
        own = plain(state["callbacks"][name], copy=True, may_have_shards=True)
        put_back_callback(cb, put_on(own, state["devices"].get(name), device))


def _pairs(learn: Learner, state: Mapping[str, Any]) -> list[Pair]:
    """Return the tensors of model and loss that exchange values with those of a snapshot, each with the other one."""
    loss = loss_module(learn)
    of_loss = [] if loss is None or state["loss"] is None else pairs_of(loss, state["loss"])
    return [*pairs_of(learn.model, state["model"]), *of_loss]


@contextmanager
def errors_as_one() -> Iterator[None]:
    """Make what goes wrong with what a file holds an error of one kind.

    Raises:
        LearnerError: for any error.
    """
    try:
        yield
    except LearnerError:
        raise
    except Exception as error:
        raise LearnerError(
            f"what was saved must be what this program saves, but it could not be put back: {type(error).__name__}: "
            f"{error}. Nothing was changed."
        ) from error


@contextmanager
def all_or_nothing(learn: Learner, state: Mapping[str, Any]) -> Iterator[ExitStack]:
    """Compare and `put_back` within, with what this gives as `undoing`; what goes wrong is undone.

    But for a lazy model, which may have become a real one.

    Raises:
        LearnerError: for any error; besides differences there may be one of what is put back.
    """
    with errors_as_one():
        apart = {tensor for tensor, _ in _pairs(learn, state)}  # `undoing` gives these their values back
    if learn.opt is not None and type(learn.opt).load_state_dict is torch.optim.Optimizer.load_state_dict:
        # It puts other tensors in their place, and changes none.
        apart |= {v for values in learn.opt.state.values() for v in values.values() if isinstance(v, torch.Tensor)}
    parts = [remember_rng(Loaders.of(learn.dls).values()), *remember_trained(learn, skips_lazy=True, apart=apart)]
    parts += [remember(vars(cb)) for cb in learn.cbs if hasattr(cb, "__dict__")]
    parts += [_remember_attributes(learn)]
    former, opt, rates = counters(learn), learn.opt, learn.rates
    try:
        with errors_as_one(), ExitStack() as undoing:
            yield undoing
    except BaseException:
        for part in reversed(parts):
            part()
        put_back_counters(learn, former)
        learn.opt, learn.rates = opt, rates
        raise


def _remember_attributes(learn: Learner) -> Callable[[], None]:
    """Take down what a subclass of Learner names in `state`; return what puts it back."""
    kept = {name: remember(getattr(learn, name)) for name in learn.state}
    return lambda: vars(learn).update({name: give() for name, give in kept.items()})


def load_snapshot(learn: Learner, state: Mapping[str, Any]) -> None:
    """Put a snapshot into a learner between two fits, all of it or nothing.

    Raises:
        LearnerError: if anything does not fit; lists what, and nothing is changed.
    """
    with all_or_nothing(learn, state) as undoing:
        opt = learn.opt
        if opt is None and state["optimizer"] is not None:
            opt = make_optimizer(learn)
        refuse(differences(learn, opt, state), _WEIGHTS_ALONE)
        put_back(learn, opt, state, undoing)
        put_back_rng(learn, state["rng"])
