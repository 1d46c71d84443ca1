"""A function by its name in a shell."""

import sys

import pytest

from learner import LearnerError
from learner.replay.named import NamedFunction


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a file with a function that uses a file beside it; what was imported is forgotten at the end."""
    (tmp_path / "beside_h.py").write_text("VALUE = 7\n")
    (tmp_path / "train_h.py").write_text("import beside_h\nlr = 3\ndef make():\n    return beside_h.VALUE\n")
    (tmp_path / "json.py").write_text("def make(): ...\n")
    (tmp_path / "lacks_h.py").write_text("import not_there_h\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("beside_h", "train_h", "lacks_h"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / "train_h.py"
    for name in ("beside_h", "train_h"):
        sys.modules.pop(name, None)


def test_it_is_found_in_a_file_and_in_a_module(train):
    assert NamedFunction.of(f"{train}:make")() == 7
    assert NamedFunction.of("train_h:make")() == 7  # beside the file now


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.py", "a function must be named by its file, got 'train.py'; do train.py:make_learner"),
        (":make", "a function must be named by its file, got ':make'"),
        ("train.py:make it", "a function must be named by its file, got 'train.py:make it'"),
        ("HERE/nowhere.py:make", "a function must be in a file that is there, which `.*nowhere.py` is not"),
        ("HERE/train_h.py:made", "must have a function 'made' at its top level"),
        ("HERE/train_h.py:lr", "must have a function 'lr' at its top level"),
        ("HERE/json.py:make", "must have a name that no other module has, but .* has it; rename it"),
        ("nowhere_h.train:make", "a function must be in a module that is there, which 'nowhere_h.train' is not"),
    ],
)
def test_what_names_no_function_is_one_error(train, text, words):
    with pytest.raises(LearnerError, match=words):
        NamedFunction.of(text.replace("HERE", str(train.parent))).find()


def test_what_a_file_itself_lacks_is_its_own_error(train):
    for text in (f"{train.with_name('lacks_h.py')}:make", "lacks_h:make"):
        with pytest.raises(ModuleNotFoundError, match="not_there_h"):
            NamedFunction.of(text).find()
