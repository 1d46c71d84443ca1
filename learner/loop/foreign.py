"""Names that people bring from miniai, fastai, Lightning, Keras and Hugging Face: what each one is here.

Looked up only when a name was not found, or when a training failed: it costs nothing as long as all goes well.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec

from learner.errors import LearnerError

P = ParamSpec("P")

# By the name elsewhere: what to write here.
FOREIGN_ATTRIBUTES = {
    "loss_func": "`learn.loss_f`",
    "loss_fn": "`learn.loss_f`",
    "criterion": "`learn.loss_f`",
    "optimizer": "`learn.opt`",
    "optim": "`learn.opt`",
    "net": "`learn.model`",
    "data": "`learn.dls`",
    "callbacks": "`learn.cbs`",
    "iter": "`learn.i`",
    "train_iter": "`learn.n_steps`",
    "global_step": "`learn.n_steps`",
    "current_epoch": "`learn.epoch`",
    "n_epoch": "`learn.n_epochs`",
    "n_iter": "`learn.n_batches`",
    "pred": "`learn.preds`",
    "outputs": "`learn.output`",
    "x": "`learn.xb`",
    "y": "`learn.yb`",
    "recorder": "`learn.history`, or a RecorderCallback for values of each batch",
    "smooth_loss": "`learn.metrics['train']['loss']`, the mean of a pass",
    "add_cbs": "`learn.add_cb(...)`, which takes one or several",
    "rm_cb": "`learn.remove_cb(...)`",
    "rm_cbs": "`learn.remove_cb(...)`, which takes one or several",
    "remove_cbs": "`learn.remove_cb(...)`, which takes one or several",
    "added_cbs": "`with learn.added(...):`",
    "fit_one_cycle": "`learn.fit(n, lr, cbs=SchedulerCallback(one_cycle()))`",
    "fit_flat_cos": "`learn.fit(n, cbs=SchedulerCallback(...))` with a schedule of torch",
    "fine_tune": "`learn.fit(n, cbs=FreezeCallback('body', until=1))`, with the layers that are to stay at first",
    "freeze": "`learner.optim.freeze(model, 'body')`, with the layers that are to stay",
    "unfreeze": "`learner.optim.unfreeze(model)`",
    "train": "`learn.fit(n)`",
    "compile": "`Learner(model, dls, loss_f, opt_func=...)`",
    "evaluate": "`learn.validate()`",
    "test": "`learn.validate(name)`, with the name of a loader",
    "show_results": "`learn.interpret()`, or `learn.get_preds()`, which returns predictions and targets",
    "to_fp16": "`MixedPrecisionCallback('fp16')` in `cbs`",
    "lr_finder": "`learn.lr_find()`",
    "save_pretrained": "`learn.export(path)`",
    "save_model": "`learn.export(path)` for the weights, `learn.save(path)` for all",
    "load_model": "`learn.load(path)`",
}

# Callbacks of the course that rely on how its learner is made inside, by class: what to use here.
_CALLBACKS = {
    "TrainCB": "leave it out: the learner does its steps itself; what differs goes into a callback of the same methods",
    "MomentumLearner": "use `opt_func=partial(torch.optim.SGD, momentum=0.9)`",
    "MetricsCB": "use MetricsCallback(...): `learn.metrics` holds the numbers here, and the loop writes them",
    "ProgressCB": "use ProgressCallback(plot=...): `learn.metrics` holds the numbers here, and nobody logs them",
}


# By the name elsewhere: what to write as an argument of `Learner`.
_FOREIGN_ARGUMENTS = {
    **dict.fromkeys(("loss_func", "loss_fn", "loss", "criterion"), "`loss_f`"),
    **dict.fromkeys(("optimizer", "optim", "opt", "optimizers"), "`opt_func`, such as `torch.optim.AdamW`"),
    **dict.fromkeys(("learning_rate", "rate"), "`lr`"),
    **dict.fromkeys(("data", "dl", "loaders", "dataloaders", "train_dataloader"), "`dls`"),
    **dict.fromkeys(("callbacks", "callback", "cb"), "`cbs`"),
    **dict.fromkeys(("net", "module", "network"), "`model`"),
    "metrics": "`cbs=MetricsCallback(...)`",
    "device": "`cbs=DeviceCallback(...)`",
    **dict.fromkeys(("epochs", "n_epochs", "max_epochs"), "`learn.fit(n)`"),
}


def names_arguments(init: Callable[P, None]) -> Callable[P, None]:
    """Return a constructor that says of an argument that it has not what it is here."""
    parameters = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in parameters:
                raise TypeError(_no_argument(type(args[0]).__name__, name, parameters))
        init(*args, **kwargs)

    return checked


def _no_argument(who: str, name: str, there: list[str]) -> str:
    near = [f"`{other}`" for other in difflib.get_close_matches(name, there, n=1)]
    meant = [_FOREIGN_ARGUMENTS[name]] if name in _FOREIGN_ARGUMENTS else near
    hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(there)}."
    return f"{who} has no argument `{name}`; {hint}"


def missing_attribute(owner: object, name: str) -> AttributeError:
    """Return the error for an attribute that an object has not, with what it is here if it is known elsewhere."""
    hint = f"; here it is {FOREIGN_ATTRIBUTES[name]}" if name in FOREIGN_ATTRIBUTES else ""
    message = f"{type(owner).__name__!r} object has no attribute {name!r}{hint}"
    return AttributeError(message, name=name, obj=owner)  # from both Python finds a name that is nearly the same


def no_data_in_action(action: str, args: tuple[object, ...]) -> TypeError:
    """Return the error for an action of the loop that is called with data, as `learn.predict(x)`."""
    hint = " For predictions do `learn.infer(x)`, or `learn.get_preds(loader)`." if action == "predict" else ""
    return TypeError(
        f"`{action}` must be called by the loop, without arguments, got {len(args)}; it is an action, which reads and "
        f"writes the state of the learner.{hint}"
    )


def foreign_callbacks(error: BaseException, cbs: Iterable[object]) -> Iterator[str]:
    """Say of callbacks that cannot work here what to use, if an error may come of them."""
    if isinstance(error, AttributeError | TypeError | LearnerError):
        for name in dict.fromkeys(type(cb).__name__ for cb in cbs):
            if name in _CALLBACKS:
                yield f"{name} of miniai cannot run here; {_CALLBACKS[name]}."
