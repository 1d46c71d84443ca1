"""A file is whole or not there, whatever somebody put beside it."""

import os

import pytest

from learner.checkpoint.atomic import create_beside, publish, replacing


def test_a_file_that_somebody_put_there_before_is_never_written_through(tmp_path, monkeypatch):
    key = tmp_path / "authorized_keys"
    key.write_text("mine")
    (tmp_path / f"a.txt.{os.getpid()}-{'0' * 16}.tmp").symlink_to(key)
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)  # as if the name had been guessed
    with pytest.raises(FileExistsError, match=r"a\.txt"), replacing(tmp_path / "a.txt"):
        pass
    assert key.read_text() == "mine"


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "key").write_text("mine")
    (tmp_path / "a.txt").symlink_to("key")
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"whole")
    assert (tmp_path / "key").read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt, match="now"), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt("now")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_outlive_a_block_until_it_gets_its_name(tmp_path):
    one, two = (create_beside(tmp_path / "a.txt") for _ in range(2))
    one.write(b"1")
    two.write(b"2")
    assert not (tmp_path / "a.txt").exists()
    publish(one, tmp_path / "a.txt")
    publish(two, tmp_path / "a.txt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["2"]
