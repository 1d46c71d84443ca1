"""Methods of a learner that another package brings: announced by name, read when they are called first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from learner.errors import LearnerError
from learner.loop.types import Learner

_MODULES: dict[str, str] = {}


def announce(method: str, module: str) -> None:
    """Say in which module a method of `Learner` is, a function of the same name that takes the learner first."""
    _MODULES[method] = module


def extension(method: str) -> Callable[..., Any]:
    """Return the function that was announced for a method.

    Raises:
        LearnerError: if none was.
    """
    if method not in _MODULES:
        raise LearnerError(f"`{method}` must be brought by the callbacks; do `import callbacks` first.")
    return getattr(import_module(_MODULES[method]), method)  # type: ignore[no-any-return]


def lr_find(
    learn: Learner, start: float = 1e-6, end: float = 10.0, n: int = 100, stop_at: float = 4.0, *, plot: bool = True
) -> Any:
    """Try out learning rates in a sandbox; `callbacks.train.lr_find` says more, and has to be there to be called.

    Raises:
        LearnerError: if `callbacks` was not imported.
    """
    return extension("lr_find")(learn, start, end, n, stop_at, plot=plot)


def batch_size_find(learn: Learner, max_gb: float | None = None) -> int:
    """Return the largest batch that a training step has memory for; `callbacks.speed.batch_size` says more.

    Raises:
        LearnerError: if `callbacks` was not imported, or the model is not on a CUDA device.
    """
    return extension("batch_size_find")(learn, max_gb)  # type: ignore[no-any-return]


def interpret(
    learn: Learner,
    name: str = "valid",
    *,
    outputs: str | None = None,
    classes: Sequence[str] | None = None,
    collector: Any = None,
) -> Any:
    """Show where the model is wrong on the samples of a loader: printed a text, in a notebook tables, `plot()`.

    Of classes: `confusion`, `per_class()` with precision, recall and F1, `most_confused()`, `calibration`; of
    numbers: `residuals`, errors and R²; of both `top_losses()` and `samples`, which may be chosen and drawn. Each
    sample counts once, whatever the sampler. Nothing of the learner is changed; it needs pyarrow.

    Args:
        learn: the learner.
        name: of the loader.
        outputs: what the model's outputs mean, as for `infer`, where the loss is not one of torch's.
        classes: names by class id; else those that a callback, the dataset or the model knows.
        collector: measures each sample; else that of a `CollectCallback` of this learner, or one by the loss.

    Raises:
        KeyError: if there is no loader of that name.
        LearnerError: if `callbacks` was not imported, nobody knows what the outputs mean, or they are neither a
            class nor numbers for each sample.

    Example:
        >>> import callbacks
        >>> import torch
        >>> from torch import nn
        >>> from learner import Learner, Loaders
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> dls = Loaders.from_arrays(train=(x, y), valid=(x, y))
        >>> learn = Learner(nn.Linear(2, 2), dls, nn.functional.cross_entropy)
        >>> found = learn.interpret(classes=["cat", "dog"])
        >>> found.per_class()["class"].tolist(), len(found.top_losses(5))
        (['cat', 'dog'], 5)
    """
    return extension("interpret")(learn, name, outputs=outputs, classes=classes, collector=collector)
