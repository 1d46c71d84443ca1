"""Files in a folder that may come from a stranger."""

import os

import pytest

from learner.records.files import files_in, is_temporary, make_folder, opened, own_folder, temporary


def test_only_ordinary_files_are_opened_and_none_is_waited_for(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"a")
    link.symlink_to(file)
    os.mkfifo(pipe)
    for mode in ("rb", "r+b", "ab"):
        opened(file, mode).close()
        for odd in (link, pipe, tmp_path):
            with pytest.raises(OSError, match=r"it is a link|no ordinary file|No such device|not seekable|Is a dir"):
                opened(odd, mode)
    with opened(link, follows_link=True) as found:
        assert found.read() == b"a"
    with pytest.raises(OSError, match="no ordinary file"):
        opened(pipe, follows_link=True)


def test_links_are_no_files_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "a" / "3.png")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert files_in(tmp_path / "a", "*.png") == [tmp_path / "a" / "1.png"]
    assert files_in(tmp_path / "b", "*.png") == files_in(tmp_path / "none", "*") == []
    make_folder(tmp_path / "a")
    with pytest.raises(OSError, match="it is a link to another folder"):
        make_folder(tmp_path / "b")


def test_nobody_can_guess_the_name_of_a_file_that_is_not_whole(tmp_path):
    names = {temporary(tmp_path / "a.parquet") for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_temporary, names))
    assert not any(is_temporary(tmp_path / name) for name in ("a.parquet", "a.tmp", "a.parquet.1.tmp"))


def test_a_process_for_which_another_one_writes_has_a_copy(tmp_path, monkeypatch):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.parquet").write_bytes(b"rows")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".lock").touch()
    assert own_folder(tmp_path) == tmp_path
    monkeypatch.setattr("learner.records.files.is_other_process", lambda: True)
    own = own_folder(tmp_path)
    assert {str(path.relative_to(own)) for path in own.rglob("*")} == {"samples", "samples/a.parquet", "run.json"}
    (own / "run.json").write_text("changed")
    assert (tmp_path / "run.json").read_text() == "{}"
    assert list(own_folder(tmp_path / "missing").iterdir()) == []
