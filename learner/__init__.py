"""A callback-driven training learner for PyTorch."""

from learner.callback import Callback
from learner.errors import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    LearnerError,
)
from learner.hooks import Hook, Hooks
from learner.learner import Learner
from learner.limit import BatchLimit
from learner.loaders import Loaders
from learner.predictor import Predictor, PredictorOutput

__all__ = [
    "BatchLimit",
    "Callback",
    "CancelBatchException",
    "CancelEpochException",
    "CancelFitException",
    "CancelStepException",
    "Hook",
    "Hooks",
    "Learner",
    "LearnerError",
    "Loaders",
    "Predictor",
    "PredictorOutput",
]
