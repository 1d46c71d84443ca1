"""What a trace of a fit holds, read back from its file."""

import gzip
import json
from collections import Counter

import pytest
import torch

from callbacks import ProfilerCallback, ValidateCallback
from callbacks.speed import profiler
from learner import Callback, LearnerError

# A round of these learners has three batches that train, and two of validation.


def events(path):
    text = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    return json.loads(text)["traceEvents"]


def spans(path):
    """Count the spans of a trace that are ours, and the batches."""
    names = [event["name"] for event in events(path) if event.get("cat") == "user_annotation"]
    own = ("predict", "get_loss", "backward", "step", "zero_grad", "next batch")
    return Counter("batch" if name.startswith("ProfilerStep#") else name for name in names) - Counter(
        name for name in names if not name.startswith((*own, "ProfilerStep#"))
    )


def test_spans_are_named_by_action_and_loader(make_learner, tmp_path, capsys):
    cb = ProfilerCallback(tmp_path / "new" / "trace.json")
    make_learner(cb).fit(2)
    assert cb.paths == [tmp_path / "new" / "trace.json"]
    assert spans(cb.paths[0]) == {
        **dict.fromkeys(("predict train", "get_loss train", "backward train", "step train", "zero_grad train"), 1),
        **dict.fromkeys(("predict valid", "get_loss valid", "next batch train"), 2),
        "next batch valid": 1,
        "batch": 3,
    }
    out = capsys.readouterr().out
    assert out.startswith(f"profiled 3 batches: {cb.paths[0]}, to be opened at https://ui.perfetto.dev\nspan ")
    assert {line.split("  ")[0] for line in out.splitlines()[2:]} >= spans(cb.paths[0]).keys() - {"batch"}
    assert not torch.autograd._profiler_enabled()


def test_it_is_the_outermost_wrapper(make_learner, tmp_path):
    class Wraps(Callback):
        order = -998

        def around_predict(self, learn, action):
            with torch.profiler.record_function("within"):
                action()

    cb = ProfilerCallback(tmp_path / "trace.json", active=1)
    make_learner([Wraps(), cb]).fit(1)
    found = {event["name"]: event for event in events(cb.paths[0]) if event.get("cat") == "user_annotation"}
    outer, inner = found["predict train"], found["within"]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]


@pytest.mark.parametrize(("wait", "n"), [(0, 4), (1, 3), (3, 2)])
def test_several_cycles_have_a_file_each_and_one_table(make_learner, tmp_path, capsys, wait, n):
    cb = ProfilerCallback(tmp_path / "trace.json.gz", wait=wait, active=1, repeat=n)
    make_learner(cb).fit(2)
    assert cb.paths == [tmp_path / f"trace_{i}.json.gz" for i in range(1, n + 1)]
    for path in cb.paths:
        assert spans(path)["batch"] == 1
    assert f"profiled {n} batches: " in capsys.readouterr().out
    (steps,) = [each.count for each in cb.averages if each.key.startswith("ProfilerStep")]
    assert steps == n
    assert sum(each.count for each in cb.averages if each.key.startswith("predict")) == n


@pytest.mark.parametrize(("wait", "active", "recorded"), [(0, 1, 1), (0, 9, 1), (1, 3, 0), (5, 1, 0)])
def test_a_fit_that_is_too_short_says_so(make_learner, dls, tmp_path, capsys, wait, active, recorded):
    cb = ProfilerCallback(tmp_path / "trace.json", wait=wait, active=active)
    make_learner(cb, dls={"train": list(dls.train)[:2]}).fit(1)
    out = capsys.readouterr().out
    assert [path.exists() for path in (cb.path, *cb.paths)] == [True] * 2 * recorded or [False]
    if recorded:
        assert "profiled 1 batch: " in out
    else:
        assert out == (
            f"ProfilerCallback: nothing was written, for the fit had 2 batches, and the first that is recorded is "
            f"batch {wait + 2} (wait={wait}, warmup=1).\n"
        )
        assert cb.averages is None
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_leaves_what_was_recorded_and_no_profiler(make_learner, tmp_path, error):
    class Fails(Callback):
        def after_loss(self, learn):
            if learn.n_steps == 2:
                raise error("on purpose")

    cb = ProfilerCallback(tmp_path / "trace.json", wait=0)
    learn = make_learner(cb)
    with pytest.raises(error, match="on purpose"):
        learn.fit(1, cbs=Fails())
    assert spans(tmp_path / "trace.json")["predict train"] == 2
    assert not torch.autograd._profiler_enabled()
    learn.fit(2)
    assert spans(tmp_path / "trace.json")["batch"] == 3


def test_in_a_sandbox_and_outside_of_a_fit_nothing_is_profiled(make_learner, tmp_path, capsys):
    cb = ProfilerCallback(tmp_path / "trace.json", wait=0)
    learn = make_learner(cb)
    with learn.sandbox():
        learn.fit(2)
    learn.validate()
    assert (list(tmp_path.iterdir()), capsys.readouterr().out) == ([], "")


def test_a_validation_within_a_pass_is_recorded(make_learner, tmp_path):
    cb = ProfilerCallback(tmp_path / "trace.json", wait=0)
    make_learner([cb, ValidateCallback(every=1)]).fit(1)
    assert spans(cb.paths[0])["predict valid"] >= 2


def test_it_can_keep_to_one_loader(make_learner, tmp_path):
    cb = ProfilerCallback(tmp_path / "trace.json")
    cb.loaders = "train"
    make_learner(cb).fit(2)
    assert (spans(cb.paths[0])["predict train"], spans(cb.paths[0])["predict valid"]) == (3, 0)


def test_options_go_to_torch(make_learner, tmp_path):
    cb = ProfilerCallback(tmp_path / "trace.json", record_shapes=True)
    make_learner(cb).fit(1)
    assert any("Input Dims" in event.get("args", {}) for event in events(cb.paths[0]))


def test_batches_that_are_left_out_cost_nothing(make_learner, tmp_path, monkeypatch):
    class Profile:
        n_steps = 0

        def __init__(self, **_): ...
        def start(self): ...
        def stop(self): ...
        def step(self):
            Profile.n_steps += 1

    def never(name):
        raise AssertionError(name)

    cb = ProfilerCallback(tmp_path / "trace.json", wait=100)
    monkeypatch.setattr(profiler, "profile", Profile)
    monkeypatch.setattr(profiler, "record_function", never)
    make_learner(cb).fit(2)
    assert Profile.n_steps == 0


def test_two_profilers_at_once_are_an_error(make_learner, tmp_path):
    path = tmp_path / "trace.json"
    with pytest.raises(LearnerError, match="`cbs` must hold one ProfilerCallback, got two"):
        make_learner([ProfilerCallback(path), ProfilerCallback(path)]).fit(1)
    learn = make_learner(ProfilerCallback(path))
    for other in (torch.profiler.profile, torch.autograd.profiler.profile):
        with other(), pytest.raises(LearnerError, match="`ProfilerCallback` must be the only profiler"):
            learn.fit(1)
    learn.fit(2)
    assert spans(path)["batch"] == 3


def test_a_profiler_that_began_while_batches_were_left_out_is_an_error(make_learner, tmp_path):
    class Profiles(Callback):
        def before_batch(self, learn):
            if learn.i == 1:
                self.profile = torch.profiler.profile()
                self.profile.start()

        def cleanup_fit(self, learn):
            self.profile.stop()

    with pytest.raises(LearnerError, match="another one of torch runs already"):
        make_learner([ProfilerCallback(tmp_path / "trace.json", wait=2), Profiles()]).fit(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"path": 3}, TypeError, "`path` must be the path of a file, got 3"),
        ({"path": "trace"}, ValueError, "`path` must end in .json or .json.gz, got 'trace'"),
        ({"wait": 1.0}, TypeError, "`wait` must be a whole number, got 1.0"),
        ({"warmup": True}, TypeError, "`warmup` must be a whole number, got True"),
        ({"wait": -1}, ValueError, "`wait` must be at least 0, got -1"),
        ({"active": 0}, ValueError, "`active` must be at least 1, got 0"),
        ({"repeat": 0}, ValueError, "`repeat` must be at least 1, got 0"),
        ({"shapes": True}, TypeError, "`options` must be among activities, record_shapes, .*, got shapes"),
        ({"schedule": len}, TypeError, "`options` must be among .*, got schedule"),
        ({"activities": ["cpu"]}, ValueError, "`options` must be what torch.profiler.profile takes, got .*'cpu'.*: No"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error, match):
    with pytest.raises(error, match=match):
        ProfilerCallback(**{"path": "trace.json", **options})


def test_a_file_that_cannot_be_written_is_told_before_anything_is_trained(make_learner, tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.json", tmp_path / "file" / "trace.json"):
        learn = make_learner(ProfilerCallback(path))
        with pytest.raises(ValueError, match=r"`path` must be a file that can be written, got .*json'"):
            learn.fit(1)
        assert learn.n_steps == 0


def test_a_trace_that_torch_could_not_write_is_an_error(make_learner, tmp_path, monkeypatch):
    learn = make_learner(ProfilerCallback(tmp_path / "trace.json", wait=0, active=1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.profiler.profile, "export_chrome_trace", lambda self, path: None)
        with pytest.raises(FileNotFoundError, match=r"trace\.json"):
            learn.fit(1)
    assert list(tmp_path.iterdir()) == []
    assert not torch.autograd._profiler_enabled()
    learn.fit(1)
    assert spans(tmp_path / "trace.json")["batch"] == 1
