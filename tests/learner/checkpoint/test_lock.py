"""One writer to a folder: in this program, in others, and after a fork or a copy."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learner import LearnerError
from learner.checkpoint.lock import LOCK, FolderLock, fcntl

ROOT = Path(__file__).parents[3]
SCRIPT = """if True:
    import sys
    from pathlib import Path
    from learner import LearnerError
    from learner.checkpoint.lock import FolderLock
    try:
        FolderLock(Path(sys.argv[1])).acquire()
        print("taken")
    except LearnerError as error:
        print(error)
"""


def second(folder):
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_one_holds_it_also_after_a_copy_of_the_folder(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    lock = FolderLock(folder)
    lock.acquire()
    shutil.copytree(folder, tmp_path / "b")  # a lock that belongs to the process would be gone now
    with pytest.raises(LearnerError, match="is being written to by another part of this program; use one folder each"):
        FolderLock(folder).acquire()
    assert f"is being written to by process {os.getpid()} on" in second(folder)
    lock.release()
    lock.release()  # nothing to give back
    assert second(folder) == "taken"


def test_a_fork_does_not_inherit_it(tmp_path):
    """Else a worker that outlives a killed training would keep the next one out."""
    lock, (reads, writes) = FolderLock(tmp_path), os.pipe()
    lock.acquire()
    child = os.fork()
    if not child:  # waits until it is told, and holds nothing
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    lock.release()
    try:
        other = FolderLock(tmp_path)
        other.acquire()
        other.release()
    finally:
        os.close(writes)
        os.waitpid(child, 0)
        os.close(reads)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "keys").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "keys")
    with pytest.raises(OSError, match="symbolic"):
        FolderLock(tmp_path).acquire()
    assert (tmp_path / "keys").read_text() == "mine"


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
