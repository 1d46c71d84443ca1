"""Callbacks, one file a concern. Each listens to the signals of `learner.Callback` and reads the learner's state."""

from callbacks.accumulate import AccumulateCallback
from callbacks.activations import ActivationStats
from callbacks.best import BestModelCallback
from callbacks.checkpoint import CheckpointCallback
from callbacks.clip import ClipGradientCallback
from callbacks.collect import CollectCallback
from callbacks.collect_metrics import collect_metrics
from callbacks.collectors import (
    ClassificationMetricsCollector,
    EmbeddingsMetricsCollector,
    FunctionalMetricsCollector,
    MetricsCollector,
    RegressionMetricsCollector,
)
from callbacks.csv_logger import CSVLoggerCallback
from callbacks.device import DeviceCallback
from callbacks.early_stopping import EarlyStoppingCallback
from callbacks.gradients import GradientStats
from callbacks.hooks import HooksCallback
from callbacks.lambdas import LambdaCallback
from callbacks.lr_find import LRFinderCallback
from callbacks.metric_functions import accuracy, mae, mean_over_samples, mse, top_k_accuracy
from callbacks.metrics import MetricsCallback
from callbacks.nan import TerminateOnNaNCallback
from callbacks.nan_report import NaNReportCallback
from callbacks.overfit import OverfitCallback
from callbacks.progress import ProgressCallback
from callbacks.recorder import RecorderCallback
from callbacks.run import RunCallback
from callbacks.schedule import SchedulerCallback
from callbacks.seed import SeedCallback
from callbacks.validate import ValidateCallback

__all__ = [
    "AccumulateCallback",
    "ActivationStats",
    "BestModelCallback",
    "CSVLoggerCallback",
    "CheckpointCallback",
    "ClassificationMetricsCollector",
    "ClipGradientCallback",
    "CollectCallback",
    "DeviceCallback",
    "EarlyStoppingCallback",
    "EmbeddingsMetricsCollector",
    "FunctionalMetricsCollector",
    "GradientStats",
    "HooksCallback",
    "LRFinderCallback",
    "LambdaCallback",
    "MetricsCallback",
    "MetricsCollector",
    "NaNReportCallback",
    "OverfitCallback",
    "ProgressCallback",
    "RecorderCallback",
    "RegressionMetricsCollector",
    "RunCallback",
    "SchedulerCallback",
    "SeedCallback",
    "TerminateOnNaNCallback",
    "ValidateCallback",
    "accuracy",
    "collect_metrics",
    "mae",
    "mean_over_samples",
    "mse",
    "top_k_accuracy",
]
