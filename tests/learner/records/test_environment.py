"""What a run was made with: as git and the packages themselves say."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from learner.records import environment as module
from learner.records.environment import environment, git_state, versions


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Be in a new repository with a commit; return a function that runs git in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def git(*args):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *identity, *args], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "train.py").write_text("lr = 0.1")
    git("add", ".")
    git("commit", "-qm", "Begin")
    return git


def test_the_commit_and_whether_tracked_files_differ_from_it(repository, tmp_path):
    assert git_state() == {"commit": repository("rev-parse", "HEAD"), "is_dirty": False}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").touch()
    assert git_state()["is_dirty"] is False
    (tmp_path / "train.py").write_text("lr = 0.2")
    assert git_state()["is_dirty"] is True


def test_no_repository_no_commit_no_git_is_no_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None
    subprocess.run(["git", "init", "-q"], check=True)
    assert git_state() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


def test_git_that_takes_too_long_is_not_waited_for(repository, monkeypatch):
    def late(*args, timeout, **kwargs):
        assert timeout == module.TIMEOUT
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    assert git_state() is None


def test_versions_are_those_that_run(monkeypatch):
    def installed(name):
        assert name == "learner-callbacks"
        return "1.2.3"

    monkeypatch.setattr(module, "version", installed)
    expected = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    assert versions() == {**expected, "learner-callbacks": "1.2.3"}
    assert type(versions()["torch"]) is str

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert versions() == {**expected, "learner-callbacks": None}


def test_seed_and_command(monkeypatch):
    torch.manual_seed(123)
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    found = environment()
    assert (found["seed"], found["command"]) == (123, ["train.py", "--lr", "0.1"])
