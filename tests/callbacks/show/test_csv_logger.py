"""CSVLoggerCallback: the file equals the history, at any moment and after any end."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from callbacks import CheckpointCallback, CSVLoggerCallback
from learner import Callback, CancelEpochException, CancelFitException, LearnerError
from tests.resuming import resumed, stopped, tiny_learner, uninterrupted

ROOT = Path(__file__).parents[3]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected(rows) -> list[dict[str, str]]:
    """Return rows of the history as a CSV file holds them: what is missing is empty."""
    rows = [dict(row) for row in rows]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: "" if row.get(name) is None else str(row[name]) for name in columns} for row in rows]


class Late(Callback):
    """Log a value from the second epoch on."""

    def after_loss(self, learn):
        if learn.epoch >= 1:
            learn.log(late=float(learn.epoch))


class EndAt(Callback):
    """Raise something in the second epoch, in a loader's first batch."""

    order = 60

    def __init__(self, error, dl_name="valid"):
        self.error, self.dl_name = error, dl_name

    def after_loss(self, learn):
        if learn.epoch == 1 and learn.dl_name == self.dl_name:
            raise self.error


def test_the_file_holds_the_history_to_the_last_digit(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    learn = make_learner(CSVLoggerCallback(path))
    learn.fit(3)
    assert read(path) == expected(learn.history)
    assert [float(row["valid/loss"]) for row in read(path)] == learn.history.to_dict()["valid/loss"]
    assert path.read_bytes().startswith(b"epoch,train/loss,valid/loss\r\n0,")


def test_a_row_is_there_as_soon_as_the_epoch_is_done(make_learner, tmp_path):
    path, n_rows = tmp_path / "log.csv", []

    class Look(Callback):
        order = 200

        def before_epoch(self, learn):
            n_rows.append(len(read(path)))

    make_learner([CSVLoggerCallback(path), Look()]).fit(3)
    assert n_rows == [0, 0, 1, 1, 2, 2]  # two passes an epoch
    assert len(read(path)) == 3


def test_a_killed_run_leaves_the_epochs_it_finished(tmp_path):
    path = tmp_path / "log.csv"
    script = """if True:
        import os, signal, sys, torch
        from callbacks import CSVLoggerCallback, LambdaCallback
        from learner import Learner
        kill = LambdaCallback(before_batch=lambda learn: learn.epoch == 2 and os.kill(os.getpid(), signal.SIGKILL))
        batch = torch.zeros(4, 1), torch.zeros(4, 1)
        learn = Learner(torch.nn.Linear(1, 1), {"train": [batch]}, torch.nn.functional.mse_loss)
        learn.fit(9, cbs=[CSVLoggerCallback(sys.argv[1]), kill])
    """
    run = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert run.returncode == -9
    assert [row["epoch"] for row in read(path)] == ["0", "1"]


def test_a_late_metric_widens_the_table_and_loses_nothing(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    learn = make_learner([CSVLoggerCallback(path), Late()])
    learn.fit(4)
    assert read(path) == expected(learn.history)
    assert [row["train/late"] for row in read(path)] == ["", "1.0", "2.0", "3.0"]
    assert os.listdir(tmp_path) == ["log.csv"]


def test_widening_replaces_the_file_in_one_go(make_learner, tmp_path, monkeypatch):
    """If the new table cannot be completed the old one is still there, whole."""
    path = tmp_path / "log.csv"

    def fail(*_):
        raise OSError("no space left")

    learn = make_learner([CSVLoggerCallback(path), Late()])
    learn.add_cb(EndAt(CancelFitException(), "train"))
    learn.fit(2)  # writes the first epoch
    before = path.read_bytes()
    learn.remove_cb(learn.cbs[-1])
    learn.cbs[0].append = True
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        learn.fit(2)
    assert path.read_bytes().startswith(before)
    assert os.listdir(tmp_path) == ["log.csv"]


@pytest.mark.parametrize("cancel", [CancelEpochException, CancelFitException])
def test_a_pass_that_a_cancel_ended_is_there_with_its_means_and_the_reason(make_learner, tmp_path, cancel):
    class Stops(Callback):
        def before_batch(self, learn):
            if learn.epoch == 1 and learn.training and learn.i == 2:
                raise cancel("seen enough")

    path = tmp_path / "log.csv"
    learn = make_learner([CSVLoggerCallback(path), Stops()])
    learn.fit(3)
    rows = read(path)
    assert rows == expected(learn.history)
    n_rows = 3 if cancel is CancelEpochException else 2
    assert [row["cut_short"] for row in rows] == ["", "train: seen enough", ""][:n_rows]
    assert all(float(row["train/loss"]) > 0 for row in rows)


def test_a_log_of_which_a_pass_was_cut_short_is_appended_to(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,train/loss,cut_short\r\n0,0.5,train: enough\r\n")
    make_learner(CSVLoggerCallback(path, append=True)).fit(1)
    assert [row["cut_short"] for row in read(path)] == ["train: enough", ""]


@pytest.mark.parametrize("dl_name", ["train", "valid"])
def test_a_pass_that_is_cancelled_in_its_first_batch_leaves_empty_cells(make_learner, tmp_path, dl_name):
    path = tmp_path / "log.csv"
    learn = make_learner([CSVLoggerCallback(path), EndAt(CancelEpochException(), dl_name)])
    learn.fit(3)
    assert [row[f"{dl_name}/loss"] == "" for row in read(path)] == [False, True, False]
    assert read(path) == expected(learn.history)


@pytest.mark.parametrize("dl_name", ["train", "valid"])
@pytest.mark.parametrize("error", [CancelFitException(), KeyError("mine"), KeyboardInterrupt("mine")])
def test_however_the_fit_ends_the_file_equals_the_history(make_learner, tmp_path, error, dl_name):
    path = tmp_path / "log.csv"
    learn = make_learner([CSVLoggerCallback(path), EndAt(error, dl_name)])
    if isinstance(error, CancelFitException):
        learn.fit(3)
    else:
        with pytest.raises(type(error), match="mine"):
            learn.fit(3)
    assert read(path) == expected(learn.history)
    assert len(read(path)) == (1 if dl_name == "train" else 2)


def test_only_rows_of_this_fit_are_written(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    learn = make_learner()
    learn.fit(2)
    learn.fit(2, cbs=CSVLoggerCallback(path))
    assert [row["epoch"] for row in read(path)] == ["2", "3"]


def test_a_second_fit_starts_the_file_afresh_unless_it_appends(make_learner, tmp_path):
    learn = make_learner(
        [CSVLoggerCallback(tmp_path / "new.csv"), CSVLoggerCallback(tmp_path / "all.csv", append=True)]
    )
    learn.fit(2)
    learn.fit(1)
    assert [row["epoch"] for row in read(tmp_path / "new.csv")] == ["2"]
    assert read(tmp_path / "all.csv") == expected(learn.history)


def test_appending_to_the_file_of_another_run_joins_the_columns(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,train/loss,train/other\r\n0,0.5,7\r\n")
    make_learner(CSVLoggerCallback(path, append=True)).fit(1)
    old, new = read(path)
    assert list(old) == ["epoch", "train/loss", "train/other", "valid/loss"]
    assert (old["train/loss"], old["train/other"], old["valid/loss"]) == ("0.5", "7", "")
    assert new["train/other"] == ""
    assert float(new["train/loss"]) > 0


def test_a_link_stays_a_link_when_the_table_grows(make_learner, tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "log.csv")
    make_learner([CSVLoggerCallback(tmp_path / "link.csv"), Late()]).fit(2)
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read(tmp_path / "log.csv")) == 2


def test_it_writes_nothing_in_a_sandbox(make_learner, tmp_path):
    path = tmp_path / "log.csv"
    learn = make_learner(CSVLoggerCallback(path))
    learn.fit(1)
    before = path.read_bytes()
    with learn.sandbox():
        learn.fit(2)
    assert path.read_bytes() == before


def test_validate_writes_nothing(make_learner, tmp_path):
    learn = make_learner(CSVLoggerCallback(tmp_path / "log.csv"))
    learn.validate()
    assert os.listdir(tmp_path) == []
    learn.fit(2)
    learn.validate()
    assert len(read(tmp_path / "log.csv")) == 2


def test_folders_are_made_and_the_working_folder_may_change(make_learner, tmp_path, monkeypatch):
    class Leave(Callback):
        def after_fit(self, learn):
            monkeypatch.chdir("/")

    monkeypatch.chdir(tmp_path)
    make_learner([CSVLoggerCallback("runs/one/log.csv"), Leave()]).fit(2)
    assert len(read(tmp_path / "runs" / "one" / "log.csv")) == 2


@pytest.mark.parametrize("name", [".", "file/log.csv"])
def test_a_path_that_cannot_be_written_is_an_error_before_training(make_learner, tmp_path, name):
    (tmp_path / "file").write_text("")
    learn = make_learner(CSVLoggerCallback(tmp_path / name))
    with pytest.raises(ValueError, match="`path` must be a file that can be written, got"):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize("content", [b"name,age\nAnn,3\n", b"\x89PNG\xff\xfe"])
def test_it_appends_to_nothing_but_a_log(make_learner, tmp_path, content):
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    learn = make_learner(CSVLoggerCallback(path, append=True))
    with pytest.raises(ValueError, match="`path` must be a"):
        learn.fit(1)
    assert path.read_bytes() == content
    assert learn.n_steps == 0


# -- going on ----------------------------------------------------------------------------------------------------------

OLD = {
    "none": "",
    "of the same columns": "epoch,train/loss,valid/loss\r\n0,0.5,0.25\r\n1,0.1,\r\n",
    "of others": "epoch,train/other\r\n0,7\r\n",
}


@pytest.mark.parametrize(("every", "by_interrupt"), [(1, False), ("epoch", True), ("epoch", False)])
@pytest.mark.parametrize(("old", "append"), [("none", False), ("of others", False), *((old, True) for old in OLD)])
def test_a_fit_that_was_stopped_leaves_the_same_bytes(make_learner, tmp_path, old, append, by_interrupt, every):
    """Epochs are of 3 + 2 batches; a metric may come up in the second. Rows to come may be in the file already."""
    late = [] if old == "of the same columns" else [Late()]

    def file_in(folder):
        folder.mkdir()
        (folder / "log.csv").write_text(OLD[old], newline="")
        return lambda cbs: make_learner([CSVLoggerCallback(folder / "log.csv", append), *late, *cbs])

    uninterrupted(file_in(tmp_path / "whole"), 3, tmp_path / "whole" / "kept", every)
    whole = (tmp_path / "whole" / "log.csv").read_bytes()
    assert whole.count(b"\n") == 4 + (append and max(OLD[old].count("\n") - 1, 0))
    for n in (1, 4, 6, 9, 11) if every == 1 or by_interrupt else (6, 9, 11):  # before, there is no checkpoint
        folder = tmp_path / str(n)
        make = file_in(folder)
        stopped(make, 3, n, folder / "kept", every, by_interrupt)
        resumed(make, 3, folder / "kept", every)
        assert (folder / "log.csv").read_bytes() == whole, n


def test_rows_of_a_future_that_will_not_be_go(tmp_path):
    """It is gone on with from an older checkpoint, and for fewer epochs."""

    def learner():
        return tiny_learner([CSVLoggerCallback(tmp_path / "log.csv"), CheckpointCallback(tmp_path / "kept", keep=9)])

    learner().fit(5)
    five = (tmp_path / "log.csv").read_bytes()
    learner().fit(3, resume=sorted((tmp_path / "kept").glob("*.pt"))[1])
    assert (tmp_path / "log.csv").read_bytes() == b"".join(five.splitlines(keepends=True)[:4])
    learner().fit(5, resume=True)
    assert (tmp_path / "log.csv").read_bytes() == five


def test_a_file_that_is_gone_is_written_anew(tmp_path):
    path = tmp_path / "log.csv"
    for n_epochs, resume in ((2, False), (4, True)):
        learn = tiny_learner([CSVLoggerCallback(path), CheckpointCallback(tmp_path / "kept")])
        learn.fit(n_epochs, resume=resume)
        assert read(path) == expected(learn.history)
        path.unlink()


def test_the_second_fit_of_a_learner_can_be_gone_on_with(tmp_path):
    def learner():
        logs = [CSVLoggerCallback(tmp_path / "new.csv"), CSVLoggerCallback(tmp_path / "all.csv", append=True)]
        return tiny_learner([*logs, CheckpointCallback(tmp_path / "kept")])

    learn = learner()
    learn.fit(2)
    learn.fit(2)
    both = [(tmp_path / name).read_bytes() for name in ("new.csv", "all.csv")]
    learn = learner()
    learn.fit(2, resume=True)  # nothing is left
    assert [(tmp_path / name).read_bytes() for name in ("new.csv", "all.csv")] == both
    assert [row["epoch"] for row in read(tmp_path / "new.csv")] == ["2", "3"]


def test_a_fit_that_cannot_go_on_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "log.csv"
    tiny_learner([CSVLoggerCallback(path), CheckpointCallback(tmp_path / "kept")]).fit(2)
    before = path.read_bytes()
    learn = tiny_learner(CSVLoggerCallback(tmp_path / "other.csv"))
    learn.fit(4)
    learn.remove_cb(learn.cbs[0])
    with pytest.raises(LearnerError, match="the learning rate is 7"):
        learn.fit(3, lr=7.0, cbs=[CSVLoggerCallback(path), CheckpointCallback(tmp_path / "kept")], resume=True)
    assert path.read_bytes() == before


def test_it_goes_on_in_nothing_but_a_log(tmp_path):
    path = tmp_path / "log.csv"
    tiny_learner([CSVLoggerCallback(path), CheckpointCallback(tmp_path / "kept")]).fit(1)
    path.write_text("name,age\nAnn,3\n")
    with pytest.raises(ValueError, match="`path` must be a log of this callback to append to"):
        tiny_learner([CSVLoggerCallback(path), CheckpointCallback(tmp_path / "kept")]).fit(2, resume=True)
    assert path.read_text() == "name,age\nAnn,3\n"
