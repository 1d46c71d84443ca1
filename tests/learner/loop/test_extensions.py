"""Methods that another package brings."""

import pytest

from learner import LearnerError
from learner.loop.extensions import announce, extension


def test_what_nobody_announced_says_what_to_import():
    with pytest.raises(LearnerError, match="`unheard_of` must be brought by the callbacks; do `import callb"):
        extension("unheard_of")


def test_what_was_announced_is_read_when_it_is_called_first(monkeypatch):
    monkeypatch.setattr("learner.loop.extensions._MODULES", {})
    announce("sqrt", "math")
    assert extension("sqrt")(9) == 3
