"""SampleWriter: every value comes back, whole files alone have names, and nothing that was written is lost."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from learner import LearnerError
from learner.records import writer as writer_module
from learner.records.files import file_name
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel
from learner.records.writer import SampleWriter
from tests.learner.records.recorded import full_disk

ROOT = Path(__file__).parents[3]
LABEL = CategoricalLabel("label", ["cat", "dog", "eel"])


def batch(start: int, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, start])
    return {
        "loss": rng.standard_normal(n),
        "embedding": rng.standard_normal((n, 5)).astype(np.float32),
        "label": rng.integers(0, 3, n),
        "is_right": rng.random(n) < 0.5,
        "word": np.array([f"w{'x' * (i % 7)}" for i in range(start, start + n)]),
        "example_id": np.arange(start, start + n),
    }


def files(folder: Path) -> list[str]:
    """Return the names of all files; the part of one that is at random is not in it."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(re.sub(r"\.[0-9]+-[0-9a-f]{16}\.tmp$", ".tmp", name) for name in names)


def write(folder: Path, name: str, *batches: dict[str, np.ndarray], **options) -> list[Path]:
    with SampleWriter(folder, name, **options) as writer:
        for columns in batches:
            writer.add(columns)
    return writer.paths


def test_scalars_and_vectors_are_in_files_of_their_own_in_the_same_order(tmp_path):
    batches = [batch(0, 7), batch(7, 5), batch(12, 1)]
    paths = write(tmp_path, "valid-0003", *batches, schemas={"label": LABEL}, constants={"epoch": 3, "split": "valid"})
    assert [str(path.relative_to(tmp_path)) for path in paths] == files(tmp_path)
    assert files(tmp_path) == ["samples/valid-0003.parquet", "vectors/valid-0003.embedding.parquet"]
    scalars, vectors = (parquet.ParquetFile(path).read() for path in paths)
    assert scalars.column_names == ["example_id", "epoch", "split", "loss", "label", "is_right", "word"]
    assert vectors.column_names == ["example_id", "epoch", "split", "embedding"]
    for name in ("example_id", "loss", "is_right", "word"):
        assert scalars[name].to_pylist() == np.concatenate([b[name] for b in batches]).tolist()
    assert scalars["label"].to_pylist() == [LABEL.classes[i] for b in batches for i in b["label"]]
    assert vectors["example_id"].equals(scalars["example_id"])
    stacked = np.concatenate([b["embedding"] for b in batches])
    assert np.array_equal(np.array(vectors["embedding"].to_pylist(), np.float32), stacked)
    assert set(scalars["epoch"].to_pylist()) == {3}
    assert set(vectors["split"].to_pylist()) == {"valid"}
    kinds = [scalars.schema.field(name).type for name in ("example_id", "epoch")]
    assert kinds == [pa.int64(), pa.int64()]
    assert vectors.schema.field("embedding").type == pa.list_(pa.float32(), 5)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 23), min_size=1, max_size=12), group=st.sampled_from([1, 4, 8]))
def test_how_rows_come_makes_no_difference(tmp_path_factory, sizes, group):
    """Whatever the batches and the row groups, the file has the rows, in groups of that many and a last one."""
    folder = tmp_path_factory.mktemp("rows")
    values = np.random.default_rng(0).standard_normal(sum(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "ROWS", group)
        writer = SampleWriter(folder, "x")
        start = 0
        for size in sizes:
            stop = start + size
            writer.add({"example_id": np.arange(start, stop), "value": values[start:stop]})
            start = stop
        (path,) = writer.close()
    file = parquet.ParquetFile(path)
    assert file.read()["value"].to_pylist() == values.tolist()
    assert file.read()["example_id"].to_pylist() == list(range(len(values)))
    n_rows = [n for i in range(file.num_row_groups) if (n := file.metadata.row_group(i).num_rows)]
    assert n_rows == [min(group, len(values) - i) for i in range(0, len(values), group)]
    assert writer.n_rows == len(values)


def test_row_groups_have_8192_rows_unless_these_are_very_wide(tmp_path):
    n = 20_000
    (path,) = write(tmp_path, "narrow", {"example_id": np.arange(n)})
    metadata = parquet.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8192, 8192, 3616]
    wide = np.zeros((3, 2**23), np.float64)  # 64 MiB a row
    scalars, vectors = write(tmp_path, "wide", {"example_id": np.arange(3), "map": wide})
    assert parquet.read_metadata(scalars).num_row_groups == 1
    assert parquet.read_metadata(vectors).num_row_groups == 3


def test_what_has_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """A checkpoint that is written next says that the part is there, and a power cut may follow."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        done.append(("sync", re.sub(r"\.[0-9]+-[0-9a-f]{16}", "", name)))
        fsync(handle)

    def replaced(old, new):
        done.append(("name", new.name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write(tmp_path, "x", {"example_id": np.arange(2), "vector": np.zeros((2, 3))})
    scalars, vectors = "x.parquet", "x.vector.parquet"
    assert done == [
        *[("sync", f"{scalars}.tmp"), ("sync", f"{vectors}.tmp")],
        *[("name", vectors), ("sync", "vectors"), ("name", scalars), ("sync", "samples")],
    ]


def test_columns_are_copied(tmp_path):
    """A caller may write the next batch into the same memory."""
    ids, values = np.arange(2), np.zeros((2, 3), np.float32)
    with SampleWriter(tmp_path, "x") as writer:
        for i in range(3):
            values[:] = i
            writer.add({"example_id": ids, "value": values})
    assert parquet.ParquetFile(writer.paths[1]).read()["value"].to_pylist() == [
        [float(i)] * 3 for i in (0, 0, 1, 1, 2, 2)
    ]


def test_the_files_say_which_table_they_are_of(tmp_path):
    for path in write(tmp_path, "x", batch(0, 3), fingerprint="abc123", table_name="digits", schemas={"label": LABEL}):
        metadata = parquet.read_schema(path).metadata
        kept = {key: value for key, value in metadata.items() if key.startswith(b"learner.")}
        assert kept == {
            b"learner.format": b"1",
            b"learner.table_name": b"digits",
            b"learner.table_fingerprint": b"abc123",
        }
    (path,) = write(tmp_path, "y", {"example_id": np.arange(2)})
    assert b"learner.table_fingerprint" not in parquet.read_schema(path).metadata


def test_samples_reads_what_was_written(tmp_path):
    paths = write(tmp_path, "x", batch(0, 5), batch(5, 4), schemas={"label": LABEL}, fingerprint="abc")
    samples = Samples(paths[:1])
    assert samples.fingerprint == "abc"
    assert samples.classes("label") == LABEL.classes
    for name in ("loss", "embedding", "label", "is_right", "word"):
        expected = np.concatenate([batch(0, 5)[name], batch(5, 4)[name]])
        assert np.array_equal(samples.numpy(name), expected), name


def test_class_names_reach_pandas(tmp_path):
    import pandas as pd

    (path,) = write(tmp_path, "x", {"example_id": np.arange(2), "label": np.array([2, 0])}, schemas={"label": LABEL})
    column = pd.read_parquet(path)["label"]
    assert list(column) == ["eel", "cat"]
    assert list(column.cat.categories) == ["cat", "dog", "eel"]


def test_keys_are_int64_whatever_they_came_as(tmp_path):
    columns = {"example_id": np.arange(2, dtype=np.int32), "step": np.arange(2, dtype=np.uint8)}
    (path,) = write(tmp_path, "x", columns, {**columns, "example_id": np.arange(2)})
    schema = parquet.read_schema(path)
    assert [schema.field(name).type for name in ("example_id", "step")] == [pa.int64(), pa.int64()]


def test_a_narrower_type_is_taken_where_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "ROWS", 2)  # both ways: through the buffer and past it
    ids = np.arange(3)
    columns = [
        {"example_id": ids, "x": np.array([0.5, 1.5, 2.5])},
        {"example_id": ids, "x": np.array([1, 2, 3], np.int32)},
    ]
    (path,) = write(tmp_path, "x", *columns)
    assert parquet.ParquetFile(path).read()["x"].to_pylist() == [0.5, 1.5, 2.5, 1.0, 2.0, 3.0]


def test_nothing_added_leaves_no_file(tmp_path):
    assert write(tmp_path, "x") == []
    assert files(tmp_path) == []


def test_a_part_without_rows_has_its_columns(tmp_path):
    paths = write(tmp_path, "x", batch(0, 0))
    assert [parquet.read_metadata(path).num_rows for path in paths] == [0, 0]
    assert Samples(paths[:1]).numpy("embedding").shape == (0, 5)


# -- names and replacing -----------------------------------------------------------------------------------------------


def test_only_whole_files_have_names(tmp_path):
    writer = SampleWriter(tmp_path, "x")
    assert files(tmp_path) == []
    writer.add(batch(0, 20_000))
    assert files(tmp_path) == ["samples/x.parquet.tmp", "vectors/x.embedding.parquet.tmp"]
    assert writer.paths == []
    assert writer.close() == writer.close() == writer.paths
    assert files(tmp_path) == ["samples/x.parquet", "vectors/x.embedding.parquet"]
    with pytest.raises(LearnerError, match="`add` must come before `close`, and part 'x' is closed"):
        writer.add(batch(0, 1))


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_or_an_interrupt_leaves_what_was_there(tmp_path, error):
    write(tmp_path, "x", batch(0, 3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}

    def interrupted():
        with SampleWriter(tmp_path, "x") as writer:
            writer.add(batch(0, 9000, seed=1))
            raise error("on purpose")

    with pytest.raises(error, match="on purpose"):
        interrupted()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_same_part_again_takes_the_place_of_the_first(tmp_path):
    """Also the vectors that it has no more; those of parts whose names begin alike stay."""
    write(tmp_path, "a", {**batch(0, 4), "gone": np.ones((4, 2))})
    write(tmp_path, "a.gone", batch(0, 2))
    (tmp_path / "vectors" / "a.damaged.parquet").write_bytes(b"PAR1")  # nobody knows of which part
    write(tmp_path, "a", batch(0, 3, seed=1))
    assert files(tmp_path) == [
        *("samples/a.gone.parquet", "samples/a.parquet"),
        *("vectors/a.damaged.parquet", "vectors/a.embedding.parquet", "vectors/a.gone.embedding.parquet"),
    ]
    (tmp_path / "vectors" / "a.damaged.parquet").unlink()
    again = Samples([tmp_path / "samples" / "a.parquet"])
    assert np.array_equal(again.numpy("embedding"), batch(0, 3, seed=1)["embedding"])


def test_names_hold_no_character_that_a_file_system_minds(tmp_path):
    columns = {"example_id": np.arange(1), "block/1 out": np.zeros((1, 2))}
    paths = write(tmp_path, "../train set:1", columns)
    assert [str(path.relative_to(tmp_path)) for path in paths] == files(tmp_path)
    assert files(tmp_path) == ["samples/.._train_set_1.parquet", "vectors/.._train_set_1.block_1_out.parquet"]
    assert Samples(paths[:1]).numpy("block/1 out").shape == (1, 2)
    for wrong in ("", None):
        with pytest.raises(ValueError, match="`name` must be a string that is not empty"):
            file_name(wrong)


def test_a_relative_folder_is_the_one_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    writer = SampleWriter(Path("run"), "x")
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.add(batch(0, 1))
    assert [path.parent.parent for path in writer.close()] == [tmp_path / "run"] * 2


# -- what is refused ---------------------------------------------------------------------------------------------------

IDS = np.arange(3)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"loss": np.zeros(3)}, ValueError, "`columns` must hold `example_id`"),
        (
            {"example_id": IDS, "loss": np.zeros(2)},
            ValueError,
            "one entry per row each, got 3 of 'example_id', 2 of 'l",
        ),
        ({"example_id": IDS, "epoch": IDS}, ValueError, "other names than `constants`, got 'epoch' in both"),
        ({"example_id": IDS, "x": [1, 2, 3]}, TypeError, "`x` must be an array"),
        ({"example_id": IDS, "x": np.zeros((3, 2, 2))}, TypeError, r"`x` must be an array .* got ndarray\(3, 2, 2\)"),
        ({"example_id": IDS, "x": np.array(0.0)}, TypeError, "`x` must be an array"),
        ({"example_id": IDS, "x": np.zeros((3, 0))}, ValueError, "`x` must have a value or a row of values per sample"),
        ({"example_id": IDS, "x": np.array([1, None, {}])}, TypeError, "`x` must hold numbers, bools or strings"),
        ({"example_id": IDS, "x": np.zeros(3, complex)}, TypeError, "`x` must hold numbers, bools or strings"),
        ({"example_id": IDS, 1: IDS}, ValueError, "`columns` must have names that are not empty, got 1"),
        ({"example_id": IDS / 1}, TypeError, "`example_id` must hold a whole number per row, got ndarray.* float64"),
        ({"example_id": IDS, "label": IDS}, ValueError, "`label` must hold class ids from 0 to 1, got 2"),
        ({"example_id": IDS, "a b": np.zeros((3, 1)), "a_b": np.zeros((3, 1))}, ValueError, "got 'a b' and 'a_b'"),
    ],
)
def test_bad_columns_are_refused_and_leave_nothing(tmp_path, columns, error, message):
    schemas, constants = {"label": CategoricalLabel("label", ["a", "b"])}, {"epoch": 0}
    writer = SampleWriter(tmp_path, "x", schemas=schemas, constants=constants)
    with pytest.raises(error, match=message):
        writer.add(columns)
    writer.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"word": None}, ValueError, "`columns` must be the same each time, got word once and not another time"),
        ({"extra": np.zeros(2)}, ValueError, "the same each time, got extra once"),
        (
            {"embedding": np.zeros((2, 6))},
            ValueError,
            r"`embedding` must be equally wide each time.* after rows of \(5,\)",
        ),
        ({"embedding": np.zeros(2)}, ValueError, "`embedding` must be equally wide each time"),
        ({"embedding": np.zeros((2, 5))}, TypeError, "`embedding` must be of one type, got .*float64 after float32"),
        ({"is_right": np.zeros(2)}, TypeError, "`is_right` must be of one type, got .*float64 after bool"),
        ({"word": np.zeros(2)}, TypeError, "`word` must be of one type, got .*float64 after text"),
        ({"loss": np.array(["a", "b"])}, TypeError, "`loss` must be of one type"),
        ({"label": np.array([0, 3])}, ValueError, "`label` must hold class ids from 0 to 2, got 3"),
        ({"label": np.array([0, -1])}, ValueError, "`label` must hold class ids from 0 to 2, got -1"),
    ],
)
def test_columns_unlike_the_first_are_refused_and_the_others_kept(tmp_path, columns, error, message):
    writer = SampleWriter(tmp_path, "x", schemas={"label": LABEL})
    writer.add(batch(0, 2))
    changed = {**batch(2, 2), **columns}
    with pytest.raises(error, match=message):
        writer.add({name: column for name, column in changed.items() if column is not None})
    writer.add(batch(4, 2))
    samples = Samples(writer.close()[:1])
    assert samples.numpy("example_id").tolist() == [0, 1, 4, 5]
    assert np.array_equal(samples.numpy("embedding"), np.concatenate([batch(i, 2)["embedding"] for i in (0, 4)]))


@pytest.mark.parametrize("value", [None, [1], np.zeros(2), 1j])
def test_a_constant_is_one_value(tmp_path, value):
    with pytest.raises(TypeError, match=r"`constants\['lr'\]` must be a number, a bool or a string"):
        SampleWriter(tmp_path, "x", constants={"lr": value})


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "learner-callbacks\[records\]"'):
        SampleWriter(tmp_path, "x")


# -- disks and kills ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_bytes", "n_rows"), [(0, 10), (10, 9000), (400, 10), (2000, 9000)])
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_there(tmp_path, n_bytes, n_rows):
    """It is met in a row group or in the footer."""
    write(tmp_path, "x", batch(0, 3))
    before = files(tmp_path)

    def filled():
        with SampleWriter(tmp_path, "x") as writer:
            writer.add(batch(0, n_rows))

    error = r"x\.(embedding\.)?parquet` must be a file that can be written.*File too large"
    with full_disk(n_bytes), pytest.raises(LearnerError, match=error):
        filled()
    assert files(tmp_path) == before
    assert len(Samples([tmp_path / "samples" / "x.parquet"])) == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file, no folder")
    writer = SampleWriter(tmp_path / "run", "x")
    with pytest.raises(
        LearnerError, match=r"run/samples/x.parquet` must be a file that can be written.*Not a directory"
    ):
        writer.add(batch(0, 1))


def test_a_file_that_cannot_have_its_name_leaves_no_other(tmp_path):
    (tmp_path / "samples" / "x.parquet").mkdir(parents=True)
    (tmp_path / "samples" / "x.parquet" / "held").touch()
    writer = SampleWriter(tmp_path, "x")
    writer.add({"example_id": IDS})
    with pytest.raises(LearnerError, match=r"samples/x\.parquet` must be a file that can be written"):
        writer.close()
    assert files(tmp_path) == ["samples/x.parquet/held"]


def test_what_has_scalars_has_vectors(tmp_path):
    """Where the vectors cannot have their name, the scalars keep those that were there."""
    blocked = tmp_path / "vectors" / "x.embedding.parquet"
    blocked.mkdir(parents=True)
    (blocked / "held").touch()
    write(tmp_path, "x", {"example_id": np.arange(1)})
    writer = SampleWriter(tmp_path, "x")
    writer.add(batch(0, 2))
    with pytest.raises(LearnerError, match=r"x\.embedding\.parquet` must be a file that can be written"):
        writer.close()
    assert files(tmp_path) == ["samples/x.parquet", "vectors/x.embedding.parquet/held"]
    assert parquet.read_metadata(tmp_path / "samples" / "x.parquet").num_rows == 1


def test_a_killed_process_leaves_each_part_that_it_finished(tmp_path):
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from learner.records.writer import SampleWriter
        for epoch in range(5):
            with SampleWriter(Path(sys.argv[1]), f"train-{epoch:04d}", constants={"epoch": epoch}) as writer:
                for start in range(0, 20000, 1000):
                    if (epoch, start) == (3, 10000):
                        os.kill(os.getpid(), signal.SIGKILL)
                    ids = np.arange(start, start + 1000)
                    writer.add({"example_id": ids, "loss": ids / 3, "vector": np.ones((1000, 4), np.float32)})
    """
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert process.returncode == -9
    assert "samples/train-0003.parquet.tmp" in files(tmp_path)
    parts = sorted((tmp_path / "samples").glob("*.parquet"))
    assert [path.stem for path in parts] == [f"train-{epoch:04d}" for epoch in range(3)]
    samples = Samples(parts)
    assert np.array_equal(samples.numpy("loss"), np.tile(np.arange(20_000) / 3, 3))
    assert samples.numpy("vector").shape == (60_000, 4)
    write(tmp_path, "train-0003", {"example_id": IDS, "vector": np.zeros((3, 4))})  # what was left is no matter
    assert len(Samples([tmp_path / "samples" / "train-0003.parquet"])) == 3


def test_names_of_a_stranger_lead_nowhere(tmp_path):
    """A folder that came from elsewhere may hold links: none is written through, and none is deleted for another."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.old.parquet").write_bytes(b"mine")
    for name in ("samples", "vectors"):
        folder = tmp_path / name
        (folder / "held").mkdir(parents=True)
        (folder / "x.parquet").symlink_to(other / "x.old.parquet")
    write(tmp_path, "x", {"example_id": IDS})
    assert not (tmp_path / "samples" / "x.parquet").is_symlink()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "samples").symlink_to(other)
    (tmp_path / "linked" / "vectors").symlink_to(other)
    with pytest.raises(LearnerError, match="it is a link to another folder, which is not followed"):
        write(tmp_path / "linked", "y", {"example_id": IDS})
    assert [(path.name, path.read_bytes()) for path in other.iterdir()] == [("x.old.parquet", b"mine")]


def test_a_run_is_held_until_the_writer_is_done(tmp_path):
    heard = []

    @contextmanager
    def hold():
        heard.append("held")
        yield
        heard.append("let go")

    with SampleWriter(tmp_path, "x", hold=hold()) as writer:
        writer.add({"example_id": IDS})
        assert heard == ["held"]
    assert heard == ["held", "let go"]
    SampleWriter(tmp_path, "x", hold=hold()).discard()
    assert heard == ["held", "let go"] * 2


def test_memory_does_not_grow_with_what_is_written(tmp_path):
    """Ten times the rows, a few MiB more at most, in processes of their own: a peak never goes down again."""
    script = """if True:
        import re, sys
        from pathlib import Path
        import numpy as np
        from learner.records.writer import SampleWriter
        x = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
        with SampleWriter(Path(sys.argv[1]), "x") as writer:
            for start in range(0, int(sys.argv[2]), 64):
                writer.add({"example_id": np.arange(start, start + 64), "x": x})
        status = Path("/proc/self/status").read_text()  # `ru_maxrss` would be that of the process of the tests
        print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status).group(1)) / 1024)
    """
    peaks = []
    for n_rows in (5_120, 51_200):
        command = [sys.executable, "-c", script, str(tmp_path), str(n_rows)]
        peaks.append(float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout))
    assert peaks[1] - peaks[0] < 40  # [MiB]; held whole, the difference would be 90
