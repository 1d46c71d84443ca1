"""What a run was made with: versions, the state of the code, the seed, the command."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

TIMEOUT = 10  # [s] for git, whose folder may be on a slow network


def environment() -> dict[str, Any]:
    """Return what is needed to do it again: command, versions, git, seed.

    Example:
        >>> list(environment()), environment()["versions"]["numpy"] == np.__version__
        (['command', 'versions', 'git', 'seed'], True)
    """
    return {"command": list(sys.argv), "versions": versions(), "git": git_state(), "seed": torch.initial_seed()}


def versions() -> dict[str, str | None]:
    """Return the versions of Python, torch, NumPy and this package, which has none where it is not installed."""
    try:
        own = version("learner-callbacks")
    except PackageNotFoundError:
        own = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "learner-callbacks": own,
    }


def git_state() -> dict[str, Any] | None:
    """Return the commit of the working directory and whether tracked files differ from it; None without either.

    Files that git does not track are passed over: the folder of the run may be one.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "is_dirty": bool(changes)}


def _git(*args: str) -> str | None:
    # To look must not be in the way of who works there; names of files may be in any encoding.
    command = ["git", "--no-optional-locks", *args]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
