import errno
import fcntl
import os
import re
import subprocess
import sys
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import LearnerError
from learner.checkpoint.file import BackgroundWriter, read_checkpoint, write_checkpoint
from learner.checkpoint.folder import CheckpointFolder, read_newest, spread

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    with CheckpointFolder(tmp_path / "run") as folder:
        yield folder


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.name != ".lock")


def fill(folder, *steps, best=()):
    for step in steps:
        folder.save({"n": torch.tensor(step)}, step, is_best=step in best)


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_the_last_few_are_kept(folder):
    for step in range(6):
        path = folder.save({"n": step}, step)
        assert path == folder.path / f"step-{step:08d}.pt"
        assert read_checkpoint(path) == {"n": step, "step": step}
        assert len(names(folder)) == min(step + 1, 3)
    assert names(folder) == ["step-00000003.pt", "step-00000004.pt", "step-00000005.pt"]


def test_one_is_enough(tmp_path):
    with CheckpointFolder(tmp_path, keep=1) as folder:
        fill(folder, 1, 2)
        assert names(folder) == ["step-00000002.pt"]


def test_the_best_is_kept_until_another_is_better(folder):
    fill(folder, 1, 2, 3, 4, 5, best=[1])
    assert names(folder) == ["step-00000001.best.pt", *(f"step-0000000{i}.pt" for i in (3, 4, 5))]
    folder.save({"n": 6}, 6, is_best=True)
    assert names(folder) == [*(f"step-0000000{i}.pt" for i in (3, 4, 5)), "step-00000006.best.pt"]
    folder.save({"n": 7}, 7, is_best=True)
    assert names(folder) == [*(f"step-0000000{i}.pt" for i in (4, 5, 6)), "step-00000007.best.pt"]
    assert folder.newest()[0].name == "step-00000007.best.pt"


def test_a_step_that_is_saved_again_takes_the_place(folder):
    fill(folder, 1, 2, best=[1])
    folder.save({"n": 5}, 2)
    assert folder.newest()[1] == {"n": 5, "step": 2}
    folder.save({"n": 6}, 1)
    folder.save({"n": 7}, 3, is_best=True)
    assert names(folder) == ["step-00000001.pt", "step-00000002.pt", "step-00000003.best.pt"]
    assert read_checkpoint(folder.path / "step-00000001.pt")["n"] == 6


def test_a_best_one_takes_the_place_of_a_broken_one_of_its_step(folder):
    fill(folder, 1, best=[1])
    (folder.path / "step-00000001.pt").write_text("broken")
    fill(folder, 2, best=[2])
    assert names(folder) == ["step-00000001.pt", "step-00000002.best.pt"]
    assert read_checkpoint(folder.path / "step-00000001.pt")["step"] == 1


def test_of_one_step_the_file_that_was_written_later_is_the_newest(folder):
    folder.save({"n": 1}, 7)
    folder.save({"n": 2}, 7, is_best=True)
    assert names(folder) == ["step-00000007.best.pt"]
    assert folder.newest()[1]["n"] == 2
    folder.save({"n": 3}, 7)
    assert names(folder) == ["step-00000007.best.pt", "step-00000007.pt"]
    assert folder.newest()[1]["n"] == 3
    folder.save({"n": 4}, 8, is_best=True)
    assert names(folder) == ["step-00000007.pt", "step-00000008.best.pt"]
    assert read_checkpoint(folder.path / "step-00000007.pt")["n"] == 3


def test_of_one_step_a_broken_file_beside_the_best_is_left_alone(folder):
    (folder.path / "step-00000007.pt").write_text("broken")
    fill(folder, 7, best=[7])
    assert names(folder) == ["step-00000007.best.pt", "step-00000007.pt"]
    with pytest.warns(RuntimeWarning, match=r"`step-00000007.best.pt` is used instead"):
        assert folder.newest()[1]["step"] == 7


def test_the_newest_is_that_of_the_highest_step_however_old_the_file_is(folder):
    assert folder.newest() is None
    fill(folder, 100_000_000, 5, 99)
    path, state = folder.newest()
    assert path.name == "step-100000000.pt"
    assert state["n"] == 100_000_000
    assert names(folder) == ["step-00000005.pt", "step-00000099.pt", "step-100000000.pt"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert CheckpointFolder(tmp_path / "none").newest() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "harm",
    [
        spoil,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:700] + bytes(50) + path.read_bytes()[750:]),
        lambda path: path.write_text("hello"),
        lambda path: torch.save({"step": 3}, path),
        lambda path: write_checkpoint(path, {"step": 9}),
        lambda path: write_checkpoint(path, {}),
    ],
)
def test_a_broken_one_is_named_and_kept_and_the_next_is_used(folder, harm):
    fill(folder, 1, 2, 3)
    newest = folder.path / "step-00000003.pt"
    harm(newest)
    before = newest.read_bytes()
    with pytest.warns(
        RuntimeWarning, match=rf"^`{newest}` cannot be .* `step-00000002.pt` is used instead\.$"
    ) as caught:
        path, state = folder.newest()
    assert len(caught) == 1
    assert (path.name, state["step"]) == ("step-00000002.pt", 2)
    assert newest.read_bytes() == before


def test_each_broken_one_is_named(folder):
    fill(folder, 1, 2, 3)
    for step in (2, 3):
        spoil(folder.path / f"step-0000000{step}.pt")
    with pytest.warns(RuntimeWarning, match="is used instead") as caught:
        assert folder.newest()[1]["step"] == 1
    assert [re.search(r"step-\d+", str(w.message))[0] for w in caught] == ["step-00000003", "step-00000002"]
    spoil(folder.path / "step-00000001.pt")
    with pytest.raises(LearnerError, match=r"(?s)no checkpoint in .* is whole:\n.*000003.*\n.*000002.*\n.*000001.*"):
        folder.newest()
    assert len(names(folder)) == 3


def test_broken_ones_do_not_count_and_are_not_deleted(tmp_path):
    with CheckpointFolder(tmp_path) as first:
        fill(first, 1, 2, 3)
    spoil(tmp_path / "step-00000002.pt")
    spoil(tmp_path / "step-00000003.pt")
    with CheckpointFolder(tmp_path, keep=2) as folder:
        with pytest.warns(RuntimeWarning, match="is used instead"):
            assert folder.newest()[1]["step"] == 1
        folder.save({}, 4)
        assert len(names(folder)) == 4
        folder.save({}, 5)
        assert names(folder) == [f"step-0000000{i}.pt" for i in (2, 3, 4, 5)]


def test_what_was_there_before_goes_only_when_enough_newer_ones_are_whole(tmp_path):
    with CheckpointFolder(tmp_path, keep=4) as first:
        fill(first, 1, 2, 3, 4)
    spoil(tmp_path / "step-00000004.pt")
    with CheckpointFolder(tmp_path, keep=2) as folder:  # that has read none of them
        folder.save({}, 5)
        assert len(names(folder)) == 5
        folder.save({}, 6)
        assert names(folder) == [f"step-0000000{i}.pt" for i in (4, 5, 6)]


def test_one_that_was_read_is_known_to_be_whole(tmp_path):
    with CheckpointFolder(tmp_path) as first:
        fill(first, 1, 2, 3)
    with CheckpointFolder(tmp_path, keep=2) as folder:
        assert folder.newest()[1]["step"] == 3
        fill(folder, 4)
        assert names(folder) == ["step-00000003.pt", "step-00000004.pt"]


def test_later_ones_of_another_run_are_not_deleted_but_can_be_set_aside(tmp_path):
    with CheckpointFolder(tmp_path, keep=1) as folder:
        fill(folder, 7, 8, best=[7])
        fill(folder, 1, 2)
        assert names(folder) == ["step-00000002.pt", "step-00000007.best.pt", "step-00000008.pt"]
        assert [path.name for path in folder.set_aside(2)] == ["step-00000007.best.pt.old", "step-00000008.pt.old"]
        assert folder.newest()[1]["step"] == 2
        fill(folder, 8)
        assert [path.name for path in folder.set_aside()] == ["step-00000008.pt.old1"]
        assert folder.newest() is None


def test_foreign_files_and_links_are_left_alone(tmp_path):
    elsewhere = tmp_path / "elsewhere.pt"
    write_checkpoint(elsewhere, {"step": 0})
    with CheckpointFolder(tmp_path / "run", keep=1) as folder:
        foreign = [
            "a.pt",
            "step-1.pt",
            "step-00000000.pt.bak",
            "step-00000000 (1).pt",
            "notes",
            "x.1-1.tmp",
            "step-" + "\u0660" * 8 + ".pt",
        ]
        for name in foreign:
            (folder.path / name).write_text("mine")
        (folder.path / "step-00000000.pt").symlink_to(elsewhere)
        (folder.path / "step-00000001.pt").mkdir()
        fill(folder, 2, 3, 4)
        assert set(names(folder)) == {*foreign, "step-00000000.pt", "step-00000001.pt", "step-00000004.pt"}
        assert elsewhere.exists()


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [f"step-00000001.pt.{dead.pid}-5.tmp", f"step-00000002.best.pt.{os.getpid()}-5.tmp"]
    stale.append(f"step-00000002.pt.{10**17}-5.tmp")
    kept = [f"step-00000001.pt.{os.getppid()}-5.tmp", "step-00000001.pt.1.tmp", f"a.pt.{dead.pid}-5.tmp"]
    for name in stale + kept:
        (tmp_path / name).touch()
    CheckpointFolder(tmp_path).newest()
    assert names(CheckpointFolder(tmp_path)) == sorted(stale + kept)
    with CheckpointFolder(tmp_path) as folder:
        assert names(folder) == sorted(kept)


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    fill(folder, 1, 2, 3)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("learner.checkpoint.atomic.os.fsync", fail)
    with pytest.raises(LearnerError, match=r"step-00000004.pt` cannot be written: \[Errno 28\] No space left"):
        fill(folder, 4)
    assert names(folder) == [f"step-0000000{i}.pt" for i in (1, 2, 3)]
    monkeypatch.undo()
    fill(folder, 4)
    assert names(folder) == [f"step-0000000{i}.pt" for i in (2, 3, 4)]


def test_old_ones_that_cannot_be_deleted_stay_with_a_warning(folder, monkeypatch):
    fill(folder, 1, 2, 3)

    def fail(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.warns(RuntimeWarning, match="Old checkpoints in .* stay: .*Permission denied"):
        fill(folder, 4)
    assert len(names(folder)) == 4


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [(0, ValueError, "at least 1, got 0"), (-1, ValueError, "at least 1, got -1")]
    + [(value, TypeError, "whole number") for value in (1.5, "3", None, True)],
)
def test_keep_must_be_a_number_of_files(tmp_path, keep, error, message):
    with pytest.raises(error, match=f"^`keep` must be .*{message}"):
        CheckpointFolder(tmp_path, keep=keep)


def test_save_says_what_is_wrong_before_it_touches_anything(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    for step, error in (
        (-1, ValueError),
        (10**18, ValueError),
        (1.0, TypeError),
        (np.int64(1), TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match=r"^`step` must be"):
            folder.save({}, step)
    with pytest.raises(ValueError, match=r"`step` must be .* that of the state, got 2"):
        folder.save({"step": 1}, 2)
    with pytest.raises(TypeError, match="`state` must be a dict, got list"):
        folder.save([1], 2)
    assert not folder.path.exists()
    with folder, pytest.raises(TypeError, match=r"`state\['a'\]` must be plain data, got numpy.float64"):
        folder.save({"a": np.float64(1)}, 1)
    assert folder.save({"step": 1}, 1).exists()
    folder.close()


def test_a_path_that_can_be_no_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(LearnerError, match=f"`{path}` must be a folder to write to: .*file"):
            CheckpointFolder(path).open()
        with pytest.raises(LearnerError, match=f"`{path}` must be a folder to read from: .*file"):
            CheckpointFolder(path).newest()
    with CheckpointFolder(tmp_path / "run") as folder:
        fill(folder, 1)
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(LearnerError, match=r"must be a folder to write to: .*Permission denied"):
            folder.set_aside()


def test_the_folder_is_the_same_wherever_the_program_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with CheckpointFolder("run") as folder:
        monkeypatch.chdir("/")
        assert folder.save({}, 1).parent == tmp_path / "run"


# --- one writer ---------------------------------------------------------------------------------------------------


def test_a_second_writer_in_the_same_program_is_refused_until_the_first_closes(tmp_path):
    first, second = CheckpointFolder(tmp_path), CheckpointFolder(tmp_path / ".." / tmp_path.name)
    fill(first, 1)
    for write in (second.open, second.set_aside, lambda: second.save({}, 2)):
        with pytest.raises(
            LearnerError, match="is being written to by another part of this program; use one folder each"
        ):
            write()
    assert second.newest()[1]["step"] == 1
    first.open()
    first.close()
    first.close()
    fill(second, 2)
    with pytest.raises(LearnerError, match="another part of this program"):
        first.open()
    second.close()


OTHER = """
import sys
from learner.checkpoint.folder import CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
folder.save({}, 1)
print("ready", flush=True)
if sys.argv[2] == "fork":
    import os, signal
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["wait", "fork"])
def test_a_second_program_is_refused_until_the_first_is_dead(tmp_path, mode):
    """Its children may live on: those of a killed training do, for a moment."""
    command = [sys.executable, "-c", OTHER, str(tmp_path), mode]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        folder = CheckpointFolder(tmp_path)
        if mode == "wait":
            message = f"`{tmp_path}` is being written to by process {other.pid} on .*; use one folder each"
            for _ in range(2):  # to look at the lock does not break it
                with pytest.raises(LearnerError, match=message):
                    folder.open()
            assert folder.newest()[1]["step"] == 1
            other.kill()
        else:
            assert os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT).si_status == 9
        other.wait()
        with folder:
            fill(folder, 2)
        other.stdin.close()
        other.stdout.close()
    assert names(folder) == ["step-00000001.pt", "step-00000002.pt"]


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with CheckpointFolder(tmp_path) as folder:
        fill(folder, 1)
    assert names(folder) == ["step-00000001.pt"]


def test_a_lock_that_cannot_be_signed_is_held_all_the_same(tmp_path, monkeypatch):
    """On a full disk; what is written into it is for people."""

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("learner.checkpoint.lock.FileIO", type("Full", (FileIO,), {"write": full}))
    for _ in range(2):
        with CheckpointFolder(tmp_path) as folder:
            with pytest.raises(LearnerError, match="being written to by another part of this program"):
                CheckpointFolder(tmp_path).open()
            fill(folder, 1)


def test_it_writes_in_the_background_as_well(folder):
    weight = torch.ones(2)
    with BackgroundWriter() as writer:
        for step in range(5):
            writer.start(folder.save, {"w": weight}, step, is_best=step == 1)
            weight += 1
    assert names(folder) == ["step-00000001.best.pt", *(f"step-0000000{i}.pt" for i in (2, 3, 4))]
    assert folder.newest()[1]["w"].tolist() == [5, 5]


def test_nothing_is_deleted_for_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    """Each file is gone through, not the first alone; the good ones stay where a later one is refused."""
    with CheckpointFolder(tmp_path, keep=1) as folder:
        fill(folder, 1)
        monkeypatch.setattr("learner.checkpoint.file.plain", lambda state, **_: {**state, "twice": [shared, shared]})
        shared = [1]
        for step in (2, 3):
            with pytest.raises(LearnerError, match=r"cannot be written: the file uses a container twice"):
                folder.save({}, step)
        assert names(folder) == ["step-00000001.pt"]
        assert folder.newest()[1]["step"] == 1


def test_a_link_in_the_folder_is_not_written_through(tmp_path):
    key = tmp_path / "key"
    key.write_text("mine")
    folder = CheckpointFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(key)
    with pytest.raises(LearnerError, match=r"must be a folder to write to: .*\.lock"):
        folder.open()
    (folder.path / ".lock").unlink()
    (folder.path / "step-00000001.pt").symlink_to(key)
    with folder:
        fill(folder, 1)
    assert folder.newest()[1]["step"] == 1
    assert key.read_text() == "mine"


def test_a_checkpoint_is_read_from_a_file_or_the_newest_of_a_folder(folder):
    fill(folder, 1, 2)
    first = folder.path / "step-00000001.pt"
    assert (read_newest(first)[0], read_newest(folder.path)[0]) == (first, folder.path / "step-00000002.pt")
    assert read_newest(str(first))[1] == {"n": torch.tensor(1), "step": 1}


def test_a_path_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(LearnerError, match=r"`resume` must be a checkpoint or a folder that has one, got '.*nowhere'"):
        read_newest(tmp_path / "nowhere")
    with pytest.raises(LearnerError, match=r"nowhere\.pt"):
        read_newest(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(("n", "n_files"), [(10, 8), (1000, 24), (100_000, 38)])
def test_few_are_kept_of_those_that_are_spread_and_no_gap_is_wider_than_half_of_its_age(n, n_files):
    """As the docstring of `CheckpointCallback` says: checkpoints every 100 steps, of 10^3, 10^5, 10^7 of these."""
    kept = []
    for step in range(n + 1):
        kept = spread([*kept, step])
    assert len(kept) == n_files
    assert kept[0] == 0
    for before, after in pairwise(kept[:-3]):
        assert after - before <= (n - after) / 2


def test_files_are_spread_as_steps_are_and_all_are_kept_on_demand(tmp_path):
    with CheckpointFolder(tmp_path / "spread", keep="spread") as few, CheckpointFolder(tmp_path / "all", "all") as all_:
        kept = []
        for step in range(0, 300, 7):
            kept = kept if step == 14 else spread([*kept, step])
            for folder in (few, all_):
                folder.save({}, step, is_best=step == 14)
    assert names(few) == sorted(f"step-{step:08d}{'.best' if step == 14 else ''}.pt" for step in {*kept, 14})
    assert len(names(all_)) == 43
