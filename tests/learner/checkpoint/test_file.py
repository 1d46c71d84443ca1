import ast
import errno
import hashlib
import io
import math
import os
import pickle
import random
import re
import resource
import stat
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections import Counter, OrderedDict
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn, optim

from learner import LearnerError
from learner.checkpoint.file import BackgroundWriter, is_whole, read_checkpoint, write_checkpoint
from learner.checkpoint.plain import CLASS_DTYPES, NAMED_DTYPES

ROOT = Path(__file__).parents[3]
STATE = {"weight": torch.arange(6.0).view(2, 3), "epoch": 3, "best": 0.5, "name": "run"}


def same(a, b) -> bool:
    """Tell whether two nests are equal to the bit and of the same kinds; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and memory(a).equal(memory(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or repr(a) == repr(b) == "nan"


def memory(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def sealed(archive: bytes, version: int = 1) -> bytes:
    """Return what write_checkpoint would have made of an archive: a stranger can do so as well."""
    data = archive + b"LEARNER" + bytes([version])
    return data + hashlib.sha256(data).digest()


def zipped(pickled: bytes, compression=zipfile.ZIP_STORED, **memories: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", sys.byteorder)
        for key, memory in memories.items():
            archive.writestr(f"archive/data/{key.strip('_')}", memory)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def refused(path: Path, data: bytes, match: str = r"cannot be read") -> None:
    path.write_bytes(data)
    with pytest.raises(LearnerError, match=rf"^`{path}` .*{match}"):
        read_checkpoint(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pt"


# --- what goes in comes out ---------------------------------------------------------------------------------------


def numbers(dtype, shape):
    return (torch.arange(math.prod(shape) * 16) % 2).to(torch.uint8).view(dtype)[: math.prod(shape)].view(shape)


keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.tuples(st.text(), st.integers()))
atoms = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**1900), 2**1900), st.floats(), st.binary()),
    *(st.text(st.characters(codec=None)), st.complex_numbers(allow_nan=False), st.sets(keys, max_size=3)),
    st.builds(numbers, st.sampled_from(list(CLASS_DTYPES.values())), st.lists(st.integers(0, 3), max_size=3)),
)
nests = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(state=st.dictionaries(keys, nests, max_size=5))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_plain_data_comes_back_as_it_was(path, state):
    write_checkpoint(path, state)
    assert same(read_checkpoint(path), state)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_tensors_of_all_number_types_and_shapes_come_back(path):
    state = {}
    for dtype in (*CLASS_DTYPES.values(), *NAMED_DTYPES):
        memory = (torch.arange(64) % 2).to(torch.uint8).view(dtype)
        state[str(dtype)] = [memory, memory[:2], memory[:0], memory[0], memory[::2], memory[:4].view(2, 2).T]
    write_checkpoint(path, state)
    for name, tensors in read_checkpoint(path).items():
        for tensor, before in zip(tensors, state[name], strict=True):
            assert tensor.dtype == before.dtype
            assert tensor.shape == before.shape
            assert tensor.contiguous().view(-1).view(torch.uint8).equal(before.contiguous().view(-1).view(torch.uint8))


def test_tied_tensors_stay_tied_and_views_take_no_more_than_they_show(path):
    big = torch.zeros(100_000)
    write_checkpoint(path, {"a": big[:3], "b": big[:3], "c": big[1:4]})
    state = read_checkpoint(path)
    assert state["a"] is state["b"]
    assert state["c"].data_ptr() != state["a"].data_ptr()
    assert path.stat().st_size < 4000


def test_what_is_not_plain_is_named_before_anything_is_written(path):
    path.write_text("old")
    with pytest.raises(
        TypeError,
        match=r"^`state\['callbacks'\]\['EarlyStopping'\]\['best'\]` must be plain data, got "
        r"numpy.float64; do float\(...\)\.$",
    ):
        write_checkpoint(path, {"callbacks": {"EarlyStopping": {"best": np.float64(1)}}})
    with pytest.raises(TypeError, match=r"^`state` must be a dict, got list"):
        write_checkpoint(path, [1])
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


OPTIMIZERS = [
    lambda p: optim.SGD(p, 0.1, momentum=0.9),
    lambda p: optim.AdamW(p, 0.1, amsgrad=True),
    lambda p: optim.RMSprop(p, 0.1, centered=True),
    lambda p: optim.Adagrad(p, 0.1),
    lambda p: optim.LBFGS(p, 0.1),
    lambda p: optim.Rprop(p, 0.1),
    lambda p: optim.Adam(p, torch.tensor(0.1), capturable=False, foreach=False),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_state_of_optimizers_comes_back(path, make):
    def trained(n, opt, model):
        for _ in range(n):

            def closure():
                opt.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss

            opt.step(closure)

    x, model = torch.randn(5, 3), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    opt = make(model.parameters())
    trained(2, opt, model)
    write_checkpoint(path, {"model": model.state_dict(), "opt": opt.state_dict()})
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    again = make(other.parameters())
    state = read_checkpoint(path)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["opt"])
    trained(2, opt, model)
    trained(2, again, other)
    assert same(dict(other.state_dict()), dict(model.state_dict()))


SCHEDULERS = [
    lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    lambda o: optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
    lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    lambda o: optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
    lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    lambda o: optim.lr_scheduler.SequentialLR(
        o, [optim.lr_scheduler.LinearLR(o), optim.lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
]


@pytest.mark.parametrize("make", SCHEDULERS)
def test_the_state_of_schedules_comes_back(path, make):
    def rates(n, schedule, opt):
        found = []
        for _ in range(n):
            opt.step()
            schedule.step(*[1.0] * isinstance(schedule, optim.lr_scheduler.ReduceLROnPlateau))
            found.append(opt.param_groups[0]["lr"])
        return found

    def made():
        opt = optim.SGD(nn.Linear(1, 1).parameters(), 0.1, momentum=0.9)
        return make(opt), opt

    (schedule, opt), (again, other) = made(), made()
    rates(3, schedule, opt)
    write_checkpoint(path, {"schedule": schedule.state_dict(), "opt": opt.state_dict()})
    state = read_checkpoint(path)
    again.load_state_dict(state["schedule"])
    other.load_state_dict(state["opt"])
    assert rates(6, again, other) == rates(6, schedule, opt)


def test_random_states_and_scalers_come_back(path):
    np_state = np.random.PCG64(1).state
    state = {
        "python": random.Random(1).getstate(),
        "torch": torch.get_rng_state(),
        "numpy": np_state,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "counts": Counter("aab"),
    }
    write_checkpoint(path, state)
    assert same(read_checkpoint(path), state)
    random.Random().setstate(read_checkpoint(path)["python"])


def test_a_file_is_an_ordinary_one_of_torch(path):
    write_checkpoint(path, OrderedDict(STATE))
    assert same(torch.load(path, weights_only=True), STATE)
    assert same(torch.load(path, weights_only=True, mmap=True)["name"], "run")
    assert zipfile.ZipFile(path).testzip() is None
    data = path.read_bytes()
    assert data[-40:-32] == b"LEARNER\1"
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    assert is_whole(path)


def test_a_file_that_could_not_be_read_is_not_written(path, monkeypatch):
    monkeypatch.setattr("learner.checkpoint.archive.MAX_PICKLE", 100)
    path.write_text("old")
    with pytest.raises(LearnerError, match="cannot be written: the file must have a pickle of at most 100 bytes"):
        write_checkpoint(path, {"a": list(range(100))})
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


# --- where it goes ------------------------------------------------------------------------------------------------


def test_folders_are_made_and_a_link_stays_one(tmp_path):
    write_checkpoint(tmp_path / "a" / "b" / "c.pt", STATE)
    (tmp_path / "link.pt").symlink_to(Path("a", "b", "c.pt"))
    write_checkpoint(tmp_path / "link.pt", {"a": 2})
    assert (tmp_path / "link.pt").is_symlink()
    assert read_checkpoint(tmp_path / "a" / "b" / "c.pt") == {"a": 2}
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c.pt"]


def test_a_path_that_cannot_be_written_to_gives_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    names = ["file/a.pt", "folder", "pipe", "loop", "x" * 256, "loop/a.pt", "\0"]
    for name in names:
        with pytest.raises((LearnerError, ValueError), match=r"cannot be written|null"):
            write_checkpoint(tmp_path / name, STATE)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder", "loop", "pipe"}


def test_a_folder_that_may_not_be_written_to_gives_an_error(tmp_path, monkeypatch):
    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *a: (
            real(self, *a)
            if "b" not in a[0]
            else (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied", str(self)))
        ),
    )
    with pytest.raises(LearnerError, match=r"a.pt` cannot be written: \[Errno 13\] Permission denied"):
        write_checkpoint(tmp_path / "a.pt", STATE)


def test_a_disk_that_takes_no_more(path):
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for n in (24_000, 25_000, 100_000):  # the last bytes, some, most
            with pytest.raises(LearnerError, match=r"a.pt` cannot be written: \[Errno 27\] File too large"):
                write_checkpoint(path, {"a": torch.zeros(n + 900)})
            assert path.read_text() == "old"
            assert list(path.parent.iterdir()) == [path]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Stopped(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), Stopped()], ids=repr
)
def test_an_error_anywhere_leaves_the_old_file_and_no_other(path, monkeypatch, error):
    write_checkpoint(path, {"a": 1})
    before = path.read_bytes()
    real = hashlib.sha256

    class Failing:
        """A digest that fails at the n-th write, for that is what each write passes by."""

        def __init__(self):
            self.digest_of, self.digest, self.digest_size = real(), lambda: b"x" * 32, 32

        def update(self, data):
            nonlocal left
            left -= 1
            if left == 0:
                raise error
            self.digest_of.update(data)

    monkeypatch.setattr("learner.checkpoint.file.hashlib.sha256", Failing)
    n = 0
    while True:
        n += 1
        left = n
        try:
            write_checkpoint(path, STATE)
            break
        except (LearnerError, MemoryError, Stopped) as caught:
            seen = (caught, caught.__cause__)
        assert error in seen
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == ["a.pt"]
    assert n > 30


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_an_error_at_the_end_leaves_the_old_file(path, monkeypatch, step):
    write_checkpoint(path, {"a": 1})

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"learner.checkpoint.atomic.{step}", fail)
    with pytest.raises(LearnerError, match=r"a.pt` cannot be written: \[Errno 5\] Input/output error"):
        write_checkpoint(path, STATE)
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]
    assert read_checkpoint(path) == {"a": 1}


def test_a_file_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (events.append(os.fstat(f).st_ino), sync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append((a.name, b.name)), replace(a, b)))
    write_checkpoint(path, STATE)
    file, (new, old), folder = events
    assert (file, folder) == (path.stat().st_ino, path.parent.stat().st_ino)
    assert re.fullmatch(rf"a\.pt\.{os.getpid()}-[0-9a-f]{{16}}\.tmp", new)
    assert old == "a.pt"


@pytest.mark.parametrize(("error", "is_fine"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_a_folder_is_no_error(path, monkeypatch, error, is_fine):
    sync = os.fsync

    def only_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(error, "no")
        sync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    with nullcontext() if is_fine else pytest.raises(LearnerError, match=r"cannot be written: .*no"):
        write_checkpoint(path, STATE)
    assert is_whole(path)


def test_a_killed_program_leaves_the_old_file_or_the_new_one(tmp_path):
    """Kill it at each write, at many bytes within a write, and around the sync and the rename."""
    script = """
        import os, signal, sys, torch
        from pathlib import Path
        from learner.checkpoint import file as checkpoint

        path = Path(sys.argv[1]) / "a.pt"
        state = {"weight": torch.arange(64.0), "epoch": 2}
        checkpoint.write_checkpoint(path, {"epoch": 1})
        old = path.read_bytes()
        checkpoint.write_checkpoint(path.with_name("b.pt"), state)
        size = path.with_name("b.pt").stat().st_size
        path.with_name("b.pt").unlink()

        class Dying:
            def __init__(self, file, n):
                self.file, self.left = file, n
            def __getattr__(self, name):
                return getattr(self.file, name)
            def write(self, data):
                data = bytes(data)
                if len(data) >= self.left:
                    self.file.write(data[:self.left])
                    self.file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                self.left -= len(data)
                return self.file.write(data)

        def dying_write(n):
            real = checkpoint._write
            checkpoint._write = lambda file, data: real(Dying(file, n), data)

        def dying_at(name, when):
            real = getattr(os, name)
            def call(*args):
                if when == "before":
                    os._exit(1)
                real(*args)
                os._exit(1)
            setattr(os, name, call)

        cases = [(dying_write, (n,)) for n in range(1, size + 1, 23)]
        cases += [(dying_at, (name, when)) for name in ("fsync", "replace") for when in ("before", "after")]
        outcomes = []
        for prepare, args in cases:
            pid = os.fork()
            if pid == 0:
                prepare(*args)
                checkpoint.write_checkpoint(path, state)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert status != 0, args
            epoch = checkpoint.read_checkpoint(path)["epoch"]
            is_renamed = args == ("replace", "after")
            assert epoch == 1 + is_renamed, args
            assert is_renamed or path.read_bytes() == old
            outcomes.append(epoch)
            for left in path.parent.glob("*.tmp"):
                try:
                    whole = checkpoint.read_checkpoint(left) == 0
                except checkpoint.LearnerError:
                    pass
                left.unlink()
        print(len(outcomes), sum(outcomes) - len(outcomes))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    n, n_new = map(int, done.stdout.split())
    assert n > 60
    assert n_new == 1


# --- what is damaged ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(path):
    write_checkpoint(path, {"w": torch.arange(3.0), "n": 1})
    return path.read_bytes()


def test_a_file_cut_off_anywhere_is_refused(path, small):
    for length in range(len(small)):
        refused(path, small[:length], "is empty" if not length else "has no digest at its end")
        assert not is_whole(path)


def test_a_file_with_any_byte_flipped_is_refused(path, small):
    for i in range(len(small)):
        flipped = bytearray(small)
        flipped[i] ^= 1 << i % 8
        refused(path, bytes(flipped), "is damaged|has no digest at its end|format version|it is damaged")
        assert not is_whole(path)


def test_a_file_with_bytes_added_swapped_or_zeroed_is_refused(path, small):
    half = len(small) // 2
    for data in (small + b"\0", b"\0" + small, small[half:] + small[:half], small[:half] + bytes(len(small) - half)):
        refused(path, data)
    refused(path, small[:half] + bytes(40) + small[half + 40 :], "is damaged: its digest")


def test_a_newer_version_is_refused_with_what_to_do(path, small):
    refused(path, sealed(small[:-40], 2), "is of format version 2, and this program reads 1; use a newer one")
    refused(path, sealed(small[:-40], 0), "is of format version 0, and this program reads 1; it is damaged")


def test_a_file_of_plain_torch_says_so(path, small):
    torch.save(STATE, path)
    refused(path, path.read_bytes(), r"as if plain torch.save had written it; .*model.load_state_dict\(torch.load")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name, reason in [
        ("pipe", "is no ordinary file"),
        ("endless", "is no ordinary file"),
        (".", "Is a directory"),
        ("none.pt", "No such file"),
        ("loop", "Too many levels"),
    ]:
        with pytest.raises(LearnerError, match=f"cannot be read: .*{reason}"):
            read_checkpoint(tmp_path / name)
        assert not is_whole(tmp_path / name)


# --- what is meant to harm ----------------------------------------------------------------------------------------


class Call:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def test_a_file_that_would_run_code_does_not(path, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    calls = [
        Call(os.system, f"touch {marker}"),
        Call(eval, f"open({str(marker)!r}, 'w')"),
        Call(exec, f"open({str(marker)!r}, 'w')"),
        Call(subprocess.Popen, ["touch", str(marker)]),
        Call(open, str(marker), "w"),
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {marker}"))),
    ]
    for force in ("0", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
        for call in calls:
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                data = pickle.dumps({"a": call}, protocol)
                refused(path, sealed(zipped(data)))
                refused(path, sealed(data))
                refused(path, data)
            file = io.BytesIO()
            torch.save({"a": call}, file)
            refused(path, sealed(file.getvalue()), "which is not plain data")
            file = io.BytesIO()
            torch.save({"a": call}, file, _use_new_zipfile_serialization=False)
            refused(path, sealed(file.getvalue()), "is no zip archive")
    assert not marker.exists()


def test_a_class_that_the_program_trusts_is_still_refused(path):
    file = io.BytesIO()
    torch.save({"a": np.float64(1)}, file)
    with torch.serialization.safe_globals([np.dtype, np.float64, type(np.dtype(float)), np._core.multiarray.scalar]):
        refused(path, sealed(file.getvalue()), "which is not plain data")


def test_good_files_are_read_with_the_variable_that_turns_safety_off(path, monkeypatch):
    write_checkpoint(path, STATE)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert same(read_checkpoint(path), STATE)


def test_torch_is_told_to_load_weights_only(path, monkeypatch):
    write_checkpoint(path, STATE)
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (seen.append(kwargs), load(*args, **kwargs))[1])
    read_checkpoint(path)
    assert seen == [{"map_location": "cpu", "weights_only": True, "mmap": False}]


def test_bombs_are_refused(path):
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, file)
    refused(path, sealed(file.getvalue()), "claims a tensor of 1000000000000 numbers in 4 bytes")
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1000)[:2]}, file)
    refused(path, sealed(file.getvalue()), "claims a tensor of 2 numbers in 4000 bytes")
    refused(path, sealed(zipped(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, _0=bytes(10**6))), "compressed")
    refused(path, sealed(zipped(pickle.dumps({"a": Call(bytearray, 10**12)}, 2))), "bytearray.* not plain data")
    laughs = []
    for _ in range(60):
        laughs = [laughs, laughs]
    refused(path, sealed(zipped(pickle.dumps({"a": laughs}, 2))), "uses a container twice")
    deep = b"\x80\2}" + b")" + b"\x85" * 10**5 + b"K\1s."
    refused(path, sealed(zipped(deep)), "nests more than 100 deep")


def test_strings_that_name_files_and_code_are_only_strings(path):
    state = {"../../etc/passwd": "/etc/passwd", "_instantiator": "os.system", "_class_path": "builtins.eval"}
    write_checkpoint(path, state)
    assert read_checkpoint(path) == state


def test_a_file_of_a_stranger_with_any_byte_changed_gives_data_or_an_error(path, small):
    """The digest fits, so that all that comes behind it is tried."""
    archive, n_read = small[:-40], 0
    generator = random.Random(0)
    for i in range(len(archive)):
        changed = bytearray(archive)
        changed[i] = generator.choice([0, 0xFF, changed[i] ^ 1, changed[i] ^ 0x80, generator.randrange(256)])
        path.write_bytes(sealed(bytes(changed)))
        with suppress_error(path):
            assert type(read_checkpoint(path)) is dict
            n_read += 1
    assert n_read > 0


@contextmanager
def suppress_error(path):
    """Let through nothing but the one error that there is to be."""
    try:
        yield
    except LearnerError as caught:
        error = caught
    else:
        return
    assert str(error).startswith(f"`{path}` cannot be read: ")


INSTRUCTIONS = [
    *(b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R", b"Q", b"N", b"\x88", b"."),
    *(b"K\1", b"K\4", b"X\1\0\0\0a", b"X\7\0\0\0storage", b"X\1\0\0\0000", b"X\3\0\0\0cpu", b"X\6\0\0\0latin1"),
    *(b"q\0", b"q\1", b"h\0", b"h\1", b"G?\xf0\0\0\0\0\0\0", b"\x8a\1\1", b"b", b"\x81", b"0", b"2", b"\x89"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"),
    *(b"c__builtin__\nset\n", b"c_codecs\nencode\n", b"ccollections\nCounter\n", b"ctorch\nuint16\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch.storage\nUntypedStorage\n", b"c__builtin__\ncomplex\n"),
]


@given(program=st.lists(st.sampled_from(INSTRUCTIONS), max_size=25))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_program_in_a_pickle_gives_data_or_an_error(path, program):
    path.write_bytes(sealed(zipped(b"\x80\2}" + b"".join(program) + b".", _0=bytes(16))))
    with suppress_error(path):
        assert type(read_checkpoint(path)) is dict


@given(data=st.binary(max_size=400))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_an_error(path, data):
    refused(path, data)
    refused(path, sealed(data))
    refused(path, sealed(zipped(data)))


# --- beside the training ------------------------------------------------------------------------------------------


def test_the_background_writer_copies_at_once(path):
    weight, gate = torch.ones(2), threading.Event()

    def save(state):
        assert threading.current_thread() is not threading.main_thread()
        gate.wait()
        write_checkpoint(path, state)

    with BackgroundWriter() as writer:
        state = {"weight": weight, "l": [1]}
        writer.start(save, state)
        weight.zero_()
        state["l"].append(2)
        gate.set()
    assert same(read_checkpoint(path), {"weight": torch.ones(2), "l": [1]})


def test_at_most_one_writing_is_in_flight_and_arguments_go_along():
    events = []

    def save(state, a, b):
        events.append(("in", state["n"], a, b))
        events.append(("out", state["n"], a, b))

    with BackgroundWriter() as writer:
        for n in range(20):
            writer.start(save, {"n": n}, 1, b=2)
    assert events == [(kind, n, 1, 2) for n in range(20) for kind in ("in", "out")]


def failing(state):
    raise LearnerError("full")


def test_what_goes_wrong_in_the_background_is_raised_once():
    writer = BackgroundWriter()
    writer.wait()
    writer.start(failing, {})
    with pytest.raises(LearnerError, match="full"):
        writer.wait()
    writer.wait()
    writer.start(failing, {})
    with pytest.raises(LearnerError, match="full"):
        writer.start(failing, {})
    writer.wait()


def test_what_is_not_plain_is_raised_by_who_asks():
    writer = BackgroundWriter()
    with pytest.raises(TypeError, match=r"`state\['a'\]` must be plain data, got numpy.float64"):
        writer.start(failing, {"a": np.float64(1)})
    writer.wait()


def test_an_error_in_the_background_does_not_hide_the_first_one():
    def run(error=None):
        with BackgroundWriter() as writer:
            writer.start(failing, {})
            if error:
                raise error

    with pytest.raises(ValueError, match="first") as caught:
        run(ValueError("first"))
    assert caught.value.__notes__ == ["Besides, in the background: full"]
    with pytest.raises(LearnerError, match="full"):
        run()


# --- the one place ------------------------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


def dangers_in(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
            found += [f"{node.module}.{a.name}" for a in node.names if a.name == "load"]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in ("eval", "exec", "__import__") else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            found += [name] if name in ("torch.load", "np.load", "numpy.load", "torch.package") else []
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.jit.load", "torch.hub.load"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
            found += [node.arg] if ast.unparse(node) not in ("weights_only=True", "allow_pickle=False") else []
    return found


def test_the_search_for_dangers_finds_them():
    code = (
        "import pickle, yaml\nfrom dill import x\nfrom torch import load\neval('1')\ntorch.load(f, weights_only=False)"
    )
    assert dangers_in(ast.parse(code)) == [
        *("pickle", "yaml", "dill", "torch.load", "eval", "torch.load", "weights_only")
    ]


def test_no_other_place_loads_such_files_or_runs_what_a_file_says():
    found = {}
    for file in [*ROOT.glob("learner/**/*.py"), *ROOT.glob("callbacks/**/*.py")]:
        if dangers := dangers_in(ast.parse(file.read_text())):
            found[str(file.relative_to(ROOT))] = dangers
    # A report of NaN may hold sparse tensors, which a checkpoint does not; it has `weights_only=True` as well.
    # Processes of one training send each other pickles, and a function is tried whether it can be sent. Of a folder of
    # shards, a list of what may be in it is gone by.
    assert found == {
        "learner/checkpoint/file.py": ["torch.load"],
        "callbacks/watch/nan_report.py": ["torch.load"],
        "learner/ranks/launch.py": ["pickle"],
        "learner/ranks/talk.py": ["pickle"],
        "learner/checkpoint/shards.py": ["pickle"],
        "learner/replay/parallel.py": ["pickle"],
    }


def test_a_link_to_another_device_is_written_there(tmp_path, monkeypatch):
    """Where a file cannot be renamed from one folder into another."""
    rename = os.replace

    def replace(old, new):
        if Path(old).parent != Path(new).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "device").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "device")
    (tmp_path / "file.pt").symlink_to(tmp_path / "device" / "file.pt")
    for path in (tmp_path / "file.pt", tmp_path / "folder" / "other.pt"):
        write_checkpoint(path, {"step": 1})
        assert read_checkpoint(path) == {"step": 1}
    assert sorted(path.name for path in (tmp_path / "device").iterdir()) == ["file.pt", "other.pt"]
