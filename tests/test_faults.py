"""The table of faults names tests that there are."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CELLS = [line.rsplit("|", 2)[1] for line in (TESTS / "faults.md").read_text().splitlines() if "`test_" in line]


def test_there_is_a_table():
    assert len(CELLS) >= 75


@pytest.mark.parametrize("cell", CELLS)
def test_every_test_that_is_named_is_there(cell):
    path = None
    for word in re.findall(r"[\w/]+\.py|`test_\w+`", cell):
        if word.endswith(".py"):
            path = TESTS / word
        else:
            assert f"def {word.strip('`')}(" in path.read_text(), (path, word)
