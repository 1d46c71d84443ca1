"""Log to MLflow."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any

from callbacks.loggers.logger import Names, Point, Status, imported
from callbacks.loggers.logger_callback import LoggerCallback

_MOST = 1000  # metrics that MLflow takes at once
_MOST_PARAMS = 100
_LONGEST = 250  # name of a metric, in characters
_LONGEST_VALUE = 6000  # of a parameter
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflowLogger:
    """A run of MLflow; see `MLflowCallback`."""

    def __init__(self, uri: str | None = None, experiment: str = "Default", name: str | None = None) -> None:
        self._mlflow = imported("mlflow", "mlflow")
        self.uri, self.experiment, self.name = uri, experiment, name
        self._client: Any = None
        self._run_id = ""
        self._names = Names(mlflow_name)
        self._known: dict[str, set[tuple[int, float]]] | None = None

    def start(self, run_id: str | None, step: int, config: Mapping[str, Any]) -> str:
        """Begin a run, or go on with one, of which is read what it has."""
        _check_file(self.uri)
        client = self._mlflow.MlflowClient(self.uri)
        if run_id is None:
            run_id = client.create_run(self._experiment_id(client), run_name=self.name).info.run_id
            self._known = None
        else:
            client.update_run(run_id, status="RUNNING")
            self._known = {}
        self._client, self._run_id = client, str(run_id)
        self._log_config(config)
        return self._run_id

    def _experiment_id(self, client: Any) -> str:
        known = client.get_experiment_by_name(self.experiment)
        return str(client.create_experiment(self.experiment) if known is None else known.experiment_id)

    def _log_config(self, config: Mapping[str, Any]) -> None:
        """Put the config down as parameters; MLflow never changes one, so what is new of a run becomes a tag."""
        there = self._client.get_run(self._run_id).data.params
        texts = {self._names[name]: str(value)[:_LONGEST_VALUE] for name, value in flattened(config)}
        params = [self._mlflow.entities.Param(name, text) for name, text in texts.items() if name not in there]
        changed = {name: text for name, text in texts.items() if there.get(name, text) != text}
        tags = [self._mlflow.entities.RunTag(name, text) for name, text in changed.items()]
        for i in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[i : i + _MOST_PARAMS])
        self._client.log_batch(self._run_id, tags=tags[:_MOST_PARAMS])

    def scalars(self, points: Sequence[Point]) -> None:
        """Hand the numbers over, but for those that the run has to the last digit."""
        now = int(time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(self._names[name], value, now, step)
            for step, values in points
            for name, value in values.items()
            if not self._is_known(self._names[name], step, value)
        ]
        for i in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run_id, metrics=metrics[i : i + _MOST])

    def _is_known(self, name: str, step: int, value: float) -> bool:
        if self._known is None:
            return False
        if name not in self._known:
            history = self._client.get_metric_history(self._run_id, name)
            self._known[name] = {(metric.step, metric.value) for metric in history}
        return (step, value) in self._known[name]

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Keep a picture as an artifact."""
        from tempfile import TemporaryDirectory

        file = posixpath.join("figures", f"{self._names[name]}.png")
        with TemporaryDirectory() as folder:
            path = Path(folder, posixpath.basename(file))
            path.write_bytes(png)
            self._client.log_artifact(self._run_id, str(path), posixpath.dirname(file))

    def text(self, name: str, text: str, step: int) -> None:
        """Keep a text as an artifact."""
        self._client.log_text(self._run_id, text, f"{self._names[name]}.txt")

    def file(self, path: Path) -> None:
        """Keep a file as an artifact."""
        self._client.log_artifact(self._run_id, str(path))

    def end(self, status: Status, reason: str | None) -> None:
        """Put down how it ended."""
        client, self._client, self._known = self._client, None, None
        client.set_tag(self._run_id, "error", reason or "")
        client.set_terminated(self._run_id, _STATUS[status])


class MLflowCallback(LoggerCallback):
    """Log a fit to MLflow: numbers as metrics, the config as parameters, pictures, texts and files as artifacts.

    What is logged and when says `LoggerCallback`. Names get underscores for the characters that MLflow does not take.
    A database keeps infinite values as the largest ones that it has. `mlflow.start_run(run_id=logger.run_id)` goes on
    with the run after a fit.

    Args:
        uri: where the runs are: a server, or a file such as "sqlite:///mlflow.db"; None for what MLflow is set to.
        experiment: its name; it is made where there is none.
        name: of the run; None for one that MLflow makes up.
        config: what is worth knowing about the run: numbers, strings, and lists and mappings of them.

    Raises:
        ImportError: if mlflow is not installed.
        LearnerError: when a fit begins, if the store cannot be reached or written to.

    Example:
        >>> logger = MLflowCallback("sqlite:///mlflow.db", experiment="digits", config={"width": 1})
        >>> logger.run_id is None  # until a fit begins
        True
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = "Default",
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(MLflowLogger(uri, experiment, name), config)


def mlflow_name(name: str) -> str:
    """Return a name with underscores for what MLflow does not take.

    Example:
        >>> mlflow_name("valid/top 5 (%)"), mlflow_name("../a//b")
        ('valid/top 5 ___', '__/a/b')
    """
    parts = [re.sub(r"[^\w.\- :]", "_", part) for part in name.split("/") if part]
    named = "/".join("_" * len(part) if set(part) == {"."} else part for part in parts)
    return named[:_LONGEST] or "_"


def flattened(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Give the values of nested mappings with the names that lead to them.

    Example:
        >>> list(flattened({"lr": 0.1, "learner": {"model": "Net"}}))
        [('lr', 0.1), ('learner/model', 'Net')]
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value


def _check_file(uri: str | None) -> None:
    """Find out now whether a database can be written to: MLflow tries again for more than a minute and a half.

    Raises:
        OSError: if it cannot.
    """
    if uri is None or not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///")).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{str(path)!r} cannot be written to")
    with path.open("ab"):
        pass
