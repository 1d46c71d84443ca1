"""One writer at a time, whatever the program does with the lock file besides."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learner import LearnerError
from learner.checkpoint.lock import Lock

ROOT = Path(__file__).parents[3]
OTHER = "import sys; from pathlib import Path; from learner.checkpoint.lock import Lock; Lock(Path(sys.argv[1]))"


def test_a_copy_of_the_folder_does_not_give_the_lock_away(tmp_path):
    """The system gives a lock of `lockf` back when any handle of the file is closed, as that of a backup."""
    lock = Lock(tmp_path / "run.lock")
    shutil.copy(tmp_path / "run.lock", tmp_path / "backup.lock")
    command = [sys.executable, "-c", OTHER, str(tmp_path / "run.lock")]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lock.release()
    assert f"is being written to by process {os.getpid()} on" in other.stderr
    Lock(tmp_path / "run.lock").release()


def test_what_is_no_ordinary_file_is_refused_and_not_written_through(tmp_path):
    (tmp_path / "key").write_text("mine")
    (tmp_path / "link").symlink_to("key")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=name):
            Lock(tmp_path / name)
    assert (tmp_path / "key").read_text() == "mine"


def test_a_refused_second_one_leaves_the_first_its_lock(tmp_path):
    lock = Lock(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(LearnerError, match="by another part of this program; use one folder each"):
            Lock(tmp_path / "a")
    lock.release()
    lock.release()
    Lock(tmp_path / "a").release()
