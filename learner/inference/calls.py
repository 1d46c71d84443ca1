"""What a learner does by this room. Each learner brings these two, so that what they need is imported when called."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.checkpoint.export import export_weights
from learner.loop.types import Learner

if TYPE_CHECKING:
    from learner.inference.inference import Inference


def infer(
    learn: Learner,
    x: Any,
    *,
    like: str | None = None,
    prepare: Callable[[Any], Any] | None = None,
    is_batch: bool | None = None,
    outputs: str | None = None,
    classes: Sequence[str] | None = None,
) -> Inference:
    """Predict for a sample, an array, a list of samples or a dataset; return predictions, probabilities, names.

    Samples are prepared as those of a loader: its collate function makes the batches, and callbacks that act on
    passes over it move and change them. Nothing is guessed: a sample of the dataset shows how many axes one has, so
    what has as many is one sample and what has one more is several. Of tuples and mappings the inputs are enough.
    Weights, modes, random generators and metrics are left as they were.

    Args:
        learn: the learner.
        x: a sample; or several as a list, an array with one axis more, arrays side by side, or a dataset.
        like: the loader as whose samples they are prepared; the first one for validation, or else the first.
        prepare: makes a sample of each thing in `x`, as the dataset does: a transform, a tokenizer.
        is_batch: whether `x` is several samples; to say so where no loader shows what a sample looks like.
        outputs: what the model's outputs mean, where the loss is not one of torch's: "logits", "log_probs",
            "binary_logits", "probs" or "values".
        classes: names by class id; else those that a callback, the dataset or the model knows.

    Raises:
        TypeError, ValueError: if `x` is no such sample, or nobody can tell what it is; says what one looks like.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from learner import Learner, Loaders
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> dls = Loaders.from_arrays(train=(x, y), valid=(x, y))
        >>> learn = Learner(nn.Linear(2, 2), dls, nn.functional.cross_entropy)
        >>> said = learn.infer([0.5, -1.0], classes=["cat", "dog"])
        >>> said.probs.shape, said.labels in ("cat", "dog"), learn.infer(x[:5]).predicted.shape
        (torch.Size([2]), True, torch.Size([5]))
    """
    from learner.inference.infer import infer

    return infer(learn, x, like=like, prepare=prepare, is_batch=is_batch, outputs=outputs, classes=classes)


def export(learn: Learner, path: str | os.PathLike[str]) -> None:
    """Write the model for other programs; the end of the name says how.

    | name ends in | what is written |
    |---|---|
    | `.pt2` | a program by `torch.export`, for `torch.export.load(path).module()` |
    | `.onnx` | a program for ONNX, checked by running it; needs `pip install "learner-callbacks[onnx]"` |
    | `.safetensors` | the weights alone, by the `safetensors` library |
    | anything else | the weights alone, for `torch.load(path, weights_only=True)` |

    A program is the model in eval mode, without the callbacks that prepare a batch; it takes any number of samples,
    and other sizes where the model does. It is run beside the model, and not written if they differ.

    Raises:
        ImportError: if a library is missing; says which to install.
        LearnerError: if the file cannot be written, no loader shows what goes in, or torch cannot export the model.
    """
    if Path(path).suffix in (".onnx", ".pt2"):
        from learner.inference.program import export_program

        export_program(learn, path)
    else:
        export_weights(learn.model, path, learn.job)
