"""The table of signals: `Callback` has one documented, empty method for each, in firing order.

Who is called when is decided in `learner.loop.dispatch`, what a method may be called in `learner.loop.naming`.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any, Literal

from learner.loop.naming import check_handler, declare_signals
from learner.loop.types import Learner

_SHORT = 60  # letters of an argument in the repr of a callback
_OPTIONS = ("order", "after", "before", "every", "loaders", "ranks", "state", "is_observer")


class Callback:
    """Base of callbacks: override what you want to hear, each method takes the learner.

    A callback may also *own* an action, by a method named `predict`, `get_loss`, `backward`, `step` or
    `zero_grad` that takes the learner, or *wrap* one: `def around_predict(self, learn, action)`, which calls
    `action()` inside whatever it needs. A plain class with methods of these names works as well.

    Attributes:
        order: smaller runs earlier; ties run in list order. The library keeps to the table below.
        after: classes of callbacks that this one runs after, whatever the numbers.
        before: classes of callbacks that this one runs before.
        every: how often it is called: a number of batches, or "10 batches", "500 steps", "2 epochs", "30 s", "10 min",
            "1 h".
        state: attributes that checkpoints and `Learner.save` hold, each plain data, a random generator (of torch, NumPy
            or Python), or an object with `state_dict` and `load_state_dict`; in their place a callback may have these
            two methods itself. They are put back after `before_fit` and, in the middle of a pass, once more after
            `before_epoch`, where `learn.i` then says with which batch the pass goes on. A method `differences(state)`
            may say, in a few words each, what of a saved state does not fit, before anything is put back. Of callbacks
            of order 100 and more, which only show and write, a fit that goes on may have others. A callback that puts
            other weights into the model for a while, such as an average for a validation, has a method
            `trained_weights(learn)`: a context manager that has the trained ones there while a checkpoint is taken.
        loaders: the passes that it is called in, by the names of their loaders: "valid", "valid*", ("train", "valid2").
        ranks: in which processes it is called, where several train together: in "all", or in the "first" alone, as what
            shows and writes. What the first does alone must not ask the others: no pass, no `learn.log` after a pass.
        is_observer: a promise that it changes nothing of the training: `learn.rewind` works with a learner that has it
            where the training had not, and the reverse. Callbacks of order 100 and more need not say so.

    A handler ends a stage of the loop by an exception: `CancelBatchException`, `CancelEpochException` or
    `CancelFitException`. `CancelStepException` leaves out the optimizer's step and drops the gradients of the batch;
    `PostponeStepException` puts the step off and keeps them, as accumulation does.

    `every`, `loaders` and `ranks` mean the same for each callback. Signals of a fit always come. `loaders` leaves out
    all other signals, and the wrapping of actions, in passes over other loaders. `every` in batches leaves out signals
    and wrapping for all but the n-th, 2n-th, … batch that this callback would hear, counted over passes and epochs from
    the beginning of the fit; in steps, for all but the training batch that makes the n-th optimizer step since it was
    last called, and in passes that do not train; in seconds, for all but the first one after so long. Signals of a pass
    come as ever. In epochs it leaves out all of a round but those of rounds n - 1, 2n - 1, … (from 0). What is left out
    costs a call or two, and a callback that sets neither pays nothing. They are read when callbacks are added and when
    a fit begins. A pass outside of a fit counts on its own and belongs to no round. Who owns an action cannot be away:
    that is an error.

    Where the library's own callbacks stand, and where yours may stand between them. When actions are wrapped, a smaller
    number is further outside. `docs/optimizer_step.md` names them.

    | order | what |
    |--:|---|
    | -1000 | writes checkpoints: first in a pass, last in a batch |
    | -999 | profiles: around all that others do to a step |
    | -100 | sets up: device, what is trained |
    | -95 | changes batches where they are; mixes the loss for both targets of a mixture |
    | -90 | lets several processes agree on a backward and a step, and average their gradients |
    | -60 | runs a step's forward and backward again, to compare them |
    | -50 | weighs the loss and accumulates: what comes later hears of whole windows alone |
    | -45 | half precision: scales the loss, unscales gradients, skips steps that overflow |
    | -40 | clips the gradients, or takes a second one |
    | -10 | measures |
    | 0 | yours: in `after_backward` gradients are whole and true, in `after_step` the weights are new |
    | 40 | averages the weights |
    | 50 | acts on the step or on what was measured: schedules, stopping |
    | 100 | shows and writes |

    Raises:
        ValueError: when the class is made, if a public method is nearly a signal but none.
        TypeError: when the class is made, if a handler cannot be called with the learner alone.

    Example:
        >>> class Count(Callback):
        ...     def before_fit(self, learn): self.n = 0
        ...     def after_batch(self, learn): self.n += 1
        >>> class Peek(Callback):
        ...     every, loaders = 10, "train*"
        ...     def after_loss(self, learn): print(learn.loss)
        >>> class Typo(Callback):
        ...     def befor_batch(self, learn): ...
        Traceback (most recent call last):
        ValueError: `Typo.befor_batch` must be named like a signal, ... did you mean `before_batch`?...
    """

    order: float = 0
    after: tuple[type, ...] = ()
    before: tuple[type, ...] = ()
    state: tuple[str, ...] = ()
    every: int | str | None = None
    loaders: str | tuple[str, ...] | None = None
    ranks: Literal["all", "first"] = "all"
    is_observer: bool = False

    def before_fit(self, learn: Learner) -> None:
        """Come first in a fit: the model, the optimizer and `learn.epochs` are there."""

    def before_epoch(self, learn: Learner) -> None:
        """Come before a pass over one loader; `learn.dl` may be replaced here."""

    def before_batch(self, learn: Learner) -> None:
        """Come before a batch; `learn.batch` may be replaced, `xb` and `yb` are taken from it next."""

    def after_predict(self, learn: Learner) -> None:
        """Come when `learn.preds` is there."""

    def after_loss(self, learn: Learner) -> None:
        """Come when `learn.loss` is there, which may be replaced (by a sum with a penalty); not for `infer` loaders."""

    def after_backward(self, learn: Learner) -> None:
        """Come when the gradients are there; training only, like the next one."""

    def after_step(self, learn: Learner) -> None:
        """Come when the optimizer has made its step, before the gradients are cleared."""

    def after_batch(self, learn: Learner) -> None:
        """Come when a batch went well."""

    def cleanup_batch(self, learn: Learner) -> None:
        """Come last in a batch however it ended, in reverse order."""

    def after_epoch(self, learn: Learner) -> None:
        """Come when a pass went well; `learn.metrics[learn.dl_name]` is there."""

    def cleanup_epoch(self, learn: Learner) -> None:
        """Come last in a pass however it ended, in reverse order."""

    def after_fit(self, learn: Learner) -> None:
        """Come when the fit went well."""

    def cleanup_fit(self, learn: Learner) -> None:
        """Come last in a fit however it ended, in reverse order."""

    def __repr__(self) -> str:
        """Return the class, and of its arguments those that are kept and short, and not what they are by default."""
        words = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            default = () if parameter.kind is parameter.VAR_POSITIONAL else parameter.default
            text = repr(vars(self).get(name, default))
            if text != repr(default) and len(text) <= _SHORT and " at 0x" not in text and "\n" not in text:
                words.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(words)})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse misspelt signals and handlers of the wrong shape as soon as the class exists."""
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if inspect.isfunction(value):
                check_handler(cls.__name__, name, value.__get__(object()))
            elif not name.startswith("_") and name not in _OPTIONS and not isinstance(value, property):
                for option in difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.85):
                    raise ValueError(f"`{cls.__name__}.{name}` must be named otherwise, or did you mean `{option}`?")


SIGNALS = tuple(name for name, value in vars(Callback).items() if not name.startswith("_") and callable(value))
declare_signals("Callback", SIGNALS)
