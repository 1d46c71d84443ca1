"""Checks of what a person passes in, and the errors that say what to change."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from learner.data.batch import describe
from learner.data.numbers import real_number
from learner.data.read_ahead import ReadAhead
from learner.data.signature import ForwardSignature
from learner.errors import LearnerError
from learner.loop.broadcast import loss_without_broadcast
from learner.loop.types import Learner


def refuse_while_running(learn: Learner, what: str) -> None:
    """Refuse a call that would disturb the fit or the pass that runs."""
    if learn._is_fitting or learn._n_passes:
        raise LearnerError(f"`{what}` must not be called while this learner runs; do it before or after.")


def checked_length(n_epochs: Any, steps: Any) -> tuple[int | None, int | None]:
    """Return how long a fit is, in epochs or in optimizer steps, or say what is wrong with it."""
    if (n_epochs is None) == (steps is None):
        raise TypeError(
            f"`fit` must be asked for one of `n_epochs` and `steps`, got {'neither' if steps is None else 'both'}; do "
            f"`fit(3)` or `fit(steps=1000)`."
        )
    return _checked_count(n_epochs, "n_epochs", 0), _checked_count(steps, "steps", 1)


def _checked_count(n: Any, name: str, least: int) -> int | None:
    if n is None:
        return None
    try:
        if isinstance(n, bool):
            raise TypeError
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {n!r}.") from None
    if n < least:
        raise ValueError(f"`{name}` must be at least {least}, got {n}.")
    return int(n)


def checked_lr(lr: Any) -> float:
    """Return a learning rate as a float, or say why it is none."""
    real_number(lr, "lr")
    if not math.isfinite(lr) or lr < 0:
        raise ValueError(f"`lr` must be a finite number of at least 0, got {float(lr)}.")
    return float(lr)


def checked_functions(loss_f: Any, opt_func: Any) -> None:
    """Refuse a loss or an optimizer function that is the wrong kind of thing."""
    if loss_f is not None and (not callable(loss_f) or isinstance(loss_f, type)):
        hint = f"; pass {loss_f.__name__}()" if isinstance(loss_f, type) else ""
        raise TypeError(f"`loss_f` must be a function of (preds, target), got {loss_f!r}{hint}.")
    if not callable(opt_func):
        raise TypeError(
            f"`opt_func` must be called as opt_func(params, lr=lr), got an object of {type(opt_func).__name__}; "
            f"pass the class, or `lambda params, lr: optimizer`."
        )
    if isinstance(opt_func, partial) and "lr" in opt_func.keywords:
        rate = opt_func.keywords["lr"]
        raise ValueError(
            f"`opt_func` must leave the learning rate to the learner, got a partial with lr={rate}, which would be "
            f"replaced; take it out and do `Learner(..., lr={rate})`."
        )


def nothing_to_train(model: nn.Module) -> LearnerError:
    """Return the error that says why there is nothing to train."""
    names = [name for name, _ in model.named_parameters()]
    if names:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        reason = f"all are frozen; unfreeze one of {listed}"
    else:
        reason = "it has no parameters at all; is it the right one?"
    return LearnerError(f"`model` must have a parameter that can be trained, got {type(model).__name__}: {reason}")


def checked_scalar(name: str, value: Any) -> Any:
    """Return a value that can be averaged, detached, or say why it cannot."""
    if name == "loss":
        raise ValueError("`log` must be given another name than 'loss', which is averaged anyway.")
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"`{name}` must be a scalar, got {describe(value)}; reduce it, as by `.mean()`.")
        return value.detach()
    if not hasattr(value, "__float__") or getattr(value, "size", 1) != 1:
        raise ValueError(f"`{name}` must be a scalar, got {describe(value)}.")
    return float(value)


def sums_over_batch(loss_f: Any) -> bool:
    """Tell whether a loss says that it is a sum over the batch.

    Example:
        >>> sums_over_batch(nn.MSELoss(reduction="sum")), sums_over_batch(nn.MSELoss())
        (True, False)
    """
    inner = loss_f.keywords if isinstance(loss_f, functools.partial) else getattr(loss_f, "__dict__", {})
    return bool(inner.get("reduction") == "sum")


def warn_of_sum(loss_f: Any) -> None:
    """Say what is averaged where a loss sums over the batch, if it is one that tells."""
    if sums_over_batch(loss_f):
        warnings.warn(
            "`loss_f` sums over the samples of a batch (reduction='sum'), so `loss` in metrics and history is the mean "
            "of such sums, weighted by batch size, and grows with it; so does a step. Use reduction='mean' for a loss "
            "per sample.",
            UserWarning,
            stacklevel=2,
        )


def unusual_loss(learn: Learner) -> Any:
    """Return the loss where there is no loss function, no target, a target that is no tensor; and of a first batch.

    A tuple of targets goes in whole, or one by one where `loss_f` takes that many; a mapping of them by name where
    `loss_f` has those names, else whole.
    """
    if learn.loss_f is None:
        return _loss_of_output(learn)
    try:
        if isinstance(learn.yb, Tensor):
            loss = loss_without_broadcast(learn.loss_f, learn.preds, learn.yb)
        else:
            loss = _loss_of_parts(learn, learn.loss_f)
    except (AttributeError, IndexError) as error:
        if learn.preds is not learn.output and _asks_for_a_field(error, learn.preds):
            raise LearnerError(
                f"`loss_f` must take the predictions, which are the `logits` alone where the output has some, got "
                f"{describe(learn.preds)} of {describe(learn.output)}; to give it all of them, set "
                f"`learn.preds = learn.output` in `after_predict` of a callback, or name the logits otherwise."
            ) from error
        raise
    learn._has_loss = True
    return loss


def _asks_for_a_field(error: AttributeError | IndexError, preds: Any) -> bool:
    """Tell whether an error comes of a tensor that was taken for something with fields or keys."""
    if isinstance(error, AttributeError):
        return error.obj is preds
    return any(words in str(error) for words in ("too many indices for tensor", "valid indices"))


def _loss_of_parts(learn: Learner, loss_f: Callable[..., Any]) -> Any:
    preds, yb = learn.preds, learn.yb
    try:
        signature = inspect.signature(loss_f.forward if isinstance(loss_f, nn.Module) else loss_f)
    except ValueError:  # of a builtin there is none to be had
        signature = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in ("p", "y")])
    if yb is None:
        if not _fits(signature, preds):
            raise LearnerError(
                f"a batch of {learn.dl_name!r} must hold a target for `loss_f`, got {describe(learn.batch)}; let the "
                f"loader give (x, y), say `Predictor(model, target_key=...)`, or pass a `loss_f` that takes the "
                f"predictions alone."
            )
        return loss_f(preds)
    if type(yb) in (tuple, list) and not _fits(signature, preds, yb) and _fits(signature, preds, *yb):
        return loss_f(preds, *yb)
    if isinstance(yb, Mapping) and yb.keys() <= signature.parameters.keys():
        return loss_f(preds, **yb)
    return loss_f(preds, yb)


def _fits(signature: inspect.Signature, *args: Any) -> bool:
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True


def _loss_of_output(learn: Learner) -> Any:
    output = learn.output
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise LearnerError(
            f"the model's output must carry a `loss` when `loss_f` is None, got {describe(output)}; pass a `loss_f`, "
            f"or give the model the target as well. What went in is {describe(learn.xb)}, of {describe(learn.batch)}; "
            f"forward takes {ForwardSignature(learn.model)}."
        )
    return loss


def bad_loss(loss: Any) -> LearnerError:
    """Return the error that says what is wrong with a loss."""
    if not isinstance(loss, Tensor):
        return LearnerError(f"the loss must be a scalar tensor with a gradient, got {describe(loss)}.")
    if loss.numel() != 1:
        return LearnerError(f"the loss must be a scalar, got shape {tuple(loss.shape)}; reduce it, as by `.mean()`.")
    return LearnerError(
        "the loss must have a gradient while training, got one without; is it detached, or made under `no_grad`?"
    )


def no_batches(learn: Learner) -> LearnerError:
    """Return the error that says why a loader may have given nothing."""
    loader = learn.dl.loader if isinstance(learn.dl, ReadAhead) else learn.dl
    dataset: Any = getattr(loader, "dataset", None)
    if iter(loader) is loader:
        reason = "it is an iterator that is used up; pass something that can be looped over again, a list or a loader"
    elif hasattr(dataset, "__len__"):
        reason = (
            f"its dataset has {len(dataset)} samples, its batch size is {getattr(loader, 'batch_size', None)} and "
            f"`drop_last` {getattr(loader, 'drop_last', None)}"
        )
    else:
        reason = "it is empty; leave it out, or fill it"
    return LearnerError(
        f"loader {learn.dl_name!r} must give at least one batch, got none in epoch {learn.epoch}: {reason}."
    )


def no_weight(learn: Learner) -> LearnerError:
    """Return the error that says that no batch of a pass counts."""
    return LearnerError(
        f"a pass over {learn.dl_name!r} must have a batch that counts, but `learn.weight` was 0 for each of them in "
        f"epoch {learn.epoch}; are all targets those that the loss ignores?"
    )


def warn_of_length(learn: Learner) -> None:
    """Say that a loader gave another number of batches than it said it has."""
    warnings.warn(
        f"loader {learn.dl_name!r} must give as many batches as its length says, {learn.n_batches}, got {learn.i + 1}; "
        f"what was given counts. Does every worker give the whole of a stream?",
        RuntimeWarning,
        stacklevel=2,
    )
