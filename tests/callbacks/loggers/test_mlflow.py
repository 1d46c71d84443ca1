"""MLflow's own: its names, parameters that stay, stores that cannot be written. For a fit see `test_logger.py`."""

import pytest
from mlflow import MlflowClient

from callbacks import MLflowCallback
from callbacks.loggers.mlflow import mlflow_name
from learner import LearnerError
from tests.callbacks.loggers.services import make_mlflow, mlflow_database


@pytest.mark.parametrize(
    "name", ["a/b", "größe 训", "top 5 (%)", "/a", "a//b", "../a", "./a", "a[0]", "", "/", "x" * 300]
)
def test_any_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(mlflow_name(name))


@pytest.mark.parametrize("name", ["file/mlflow.db", "."])
def test_a_store_that_cannot_be_written_to_is_an_error_at_once(make_learner, tmp_path, name):
    (tmp_path / "file").write_text("")
    learn = make_learner(MLflowCallback(f"sqlite:///{tmp_path / name}"))
    with pytest.raises(LearnerError, match="`MLflowCallback` must be able to begin its run, got"):
        learn.fit(1)
    assert learn.n_steps == 0


def test_what_is_new_of_a_run_is_a_tag_since_parameters_stay(make_learner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = make_mlflow(tmp_path)
    learn = make_learner(logger)
    learn.fit(1)
    learn.fit(2)
    data = MlflowClient(logger.logger.uri).get_run(logger.run_id).data
    assert (data.params["learner/n_epochs"], data.tags["learner/n_epochs"]) == ("1", "2")


def test_more_values_than_are_taken_at_once(make_learner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = make_mlflow(tmp_path, config={f"p{i}": i for i in range(150)})
    monkeypatch.setattr("callbacks.loggers.mlflow._MOST", 3)
    make_learner(logger).fit(1)
    client = MlflowClient(logger.logger.uri)
    assert len(client.get_metric_history(logger.run_id, "lr")) == 3
    assert client.get_run(logger.run_id).data.params["p149"] == "149"


def test_an_experiment_is_made_once(make_learner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{mlflow_database()}"
    for _ in range(2):
        logger = MLflowCallback(uri, experiment="digits")
        make_learner(logger).fit(1)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    assert len(client.search_runs([experiment.experiment_id])) == 2
