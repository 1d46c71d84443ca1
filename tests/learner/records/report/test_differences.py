"""What differs between runs, and which of them differ in their seed alone."""

from learner.records.report.differences import differences, facts_of, seed_groups
from tests.learner.records.report.reading import EVIL, tags

INFO = {
    "config": {"lr": 0.1, "opt": {"betas": [0.9, 0.99]}, "seed": 0},
    "learner": {"model": "Net", "n_batches": {"train": 3}},
    "versions": {"python": "3.11", "learner-callbacks": None},
    "git": {"commit": "abc", "is_dirty": True},
    "command": ["train.py", "--lr"],
    "seed": 7,
    "tables": {"f1": {"name": "digits", "n_rows": 1437}, "f2": {"name": "digits", "n_rows": 360}},
}


def test_all_that_is_on_record_is_a_fact():
    assert facts_of(INFO) == {
        "config lr": "0.1",
        "config opt.betas": "0.9, 0.99",
        "config seed": "0",
        "training model": "Net",
        "training n batches.train": "3",
        "seed": "7",
        "command": "train.py --lr",
        "version of python": "3.11",
        "commit": "abc",
        "changes since the commit": "yes",
        "data digits": "1,437 rows, f1; 360 rows, f2",
    }
    assert facts_of({}) == {}


def test_only_what_is_not_alike_is_listed():
    facts = {"one": {"config lr": "0.1", "seed": "0"}, EVIL: {"config lr": EVIL, "seed": "0", "commit": "abc"}}
    table, words = differences(facts)
    cells = [cell["text"] for cell in tags(table)("td")]
    assert cells == ["config lr", "0.1", EVIL, "commit", "", "abc"]
    assert tags(words)("p")[0]["text"] == "1 other facts are the same in all."
    (same,) = differences({"one": {"seed": "0"}, "other": {"seed": "0"}})
    assert tags(same)("p")[0]["text"] == "Nothing: all 1 facts on record are the same."


def test_runs_that_differ_in_their_seed_alone_are_together():
    def facts(lr, seed, commit="abc"):
        return {"config lr": lr, "training lr": lr, "config seed": seed, "seed": seed, "commit": commit}

    runs = {"a": facts("1", "0"), "b": facts("1", "1", "def"), "c": facts("2", "0")}
    assert seed_groups(runs) == {"lr 1": ["a", "b"], "lr 2": ["c"]}
    del runs["c"]
    assert seed_groups(runs) == {"all": ["a", "b"]}
    assert seed_groups({"a": {"config x": "1"}, "b": {}}) == {"x 1": ["a"], "none of this": ["b"]}
