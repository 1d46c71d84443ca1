"""`compare`: which runs it takes, how they are called, and what it refuses."""

import pytest

from learner import LearnerError
from learner.records import Run, compare
from tests.learner.records.report.reading import read


@pytest.fixture
def runs(tmp_path):
    """Two runs in a folder."""
    made = [Run.create(tmp_path / "runs" / name, config={"lr": lr}) for name, lr in (("one", 0.1), ("other", 0.2))]
    for i, run in enumerate(made):
        run.log({"epoch": 0, "valid/loss": 1.0 - i})
    return made


def test_runs_folders_a_mapping_or_a_folder_of_them(runs, tmp_path):
    folder = tmp_path / "runs"
    (folder / "notes").mkdir()  # no run
    for given, names in (
        (runs, ["one", "other"]),
        ([run.path for run in runs], ["one", "other"]),
        (map(str, [run.path for run in runs]), ["one", "other"]),
        ({"a": runs[0], "b": runs[1].path}, ["a", "b"]),
        (folder, ["one", "other"]),
    ):
        path = compare(given)
        assert path == folder / "compare.html"
        assert [one["text"] for one in read(path)("h1")] == [" · ".join(names)]


def test_the_file_can_be_chosen(runs, tmp_path):
    assert compare(runs, tmp_path / "page.html").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(LearnerError, match="must be"):
        compare(runs, tmp_path / "file" / "page.html")


def test_runs_of_one_name_are_called_by_their_folders(tmp_path):
    made = [Run.create(tmp_path / seed / "run", name="mine") for seed in ("0", "1")]
    assert [one["text"] for one in read(compare(made))("h1")] == ["0/run · 1/run"]


def test_what_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"`runs` must be different runs, got '.*one' twice"):
        compare([runs[0], runs[0].path])
    with pytest.raises(ValueError, match=r"`runs` must be at least two, got 1; for one do `run.report\(\)`"):
        compare(runs[:1])
    with pytest.raises(ValueError, match="got the folder of one"):
        compare(runs[0].path)
    with pytest.raises(TypeError, match=r"`runs` must be several runs, got Run\('one'"):
        compare(runs[0])
    with pytest.raises(TypeError, match="`runs` must be folders or `Run`s, got 3"):
        compare([runs[0], 3])
    with pytest.raises(FileNotFoundError, match="`runs` must be a folder with runs in it"):
        compare(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="`path` must be the folder of a run"):
        compare([runs[0], tmp_path / "none"])
    (runs[1].path / "run.json").write_text("{")
    with pytest.raises(LearnerError, match=r"other' whose run\.json is cut short or damaged"):
        compare(tmp_path / "runs")
    assert not (tmp_path / "runs" / "compare.html").exists()
