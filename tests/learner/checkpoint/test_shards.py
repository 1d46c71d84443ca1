"""A model in shards is written by all processes, and goes on with any number; what is not whole is not found."""

import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import callbacks
from callbacks import DistributedCallback, ShardCallback
from learner import Callback, Learner, LearnerError
from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.folder import CheckpointFolder
from learner.checkpoint.shards import ShardsError, is_model_in_shards, read_shards, write_shards
from learner.ranks import launch
from learner.ranks.job import ALONE


class Model(nn.Sequential):
    """One with a layer of one row, of which the last process has none, and parameters without a gradient."""

    def __init__(self, has_unused: bool) -> None:
        super().__init__(nn.Linear(10, 17), nn.Tanh(), nn.Linear(17, 1), nn.Linear(1, 2))
        self[0].bias.requires_grad_(False)
        self.register_parameter("unused", nn.Parameter(torch.ones(3)) if has_unused else None)


def learner(kind: str, *cbs: Any, has_unused: bool = False) -> Learner:
    ranks = ShardCallback(["0", "2"], timeout=30) if kind == "shards" else DistributedCallback(timeout=30)
    torch.manual_seed(0)
    x = torch.randn(77, 10)
    y = (x[:, 0] > 0).long()
    dls = {
        "train": DataLoader(TensorDataset(x[:49], y[:49]), 12, shuffle=True),
        "valid": DataLoader(TensorDataset(x[49:], y[49:]), 7),
    }
    more = callbacks.EMACallback(0.9), callbacks.AccumulateCallback(2), callbacks.BestModelCallback()
    return Learner(Model(has_unused), dls, cross_entropy, lr=0.05, opt_func=torch.optim.AdamW, cbs=[ranks, *more, *cbs])


def results(learn: Learner) -> dict[str, Any]:
    tensors = [*learn.model.parameters(), *learn.cbs[1].average.values()]
    return {
        "numbers": [(t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone() for t in tensors],
        "history": learn.history.to_dict()["valid/loss"],
        "exactly": (learn.n_steps, learn.n_samples, learn.best.epoch),
    }


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["exactly"] == b["exactly"]
    assert a["history"] == pytest.approx(b["history"], rel=1e-12)
    for x, y in zip(a["numbers"], b["numbers"], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.fixture(autouse=True)
def _in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Interrupt(Callback):
    """Be interrupted in the middle of an epoch, and of a window of two batches."""

    def after_batch(self, learn: Learner) -> None:
        if learn.training and (learn.epoch, learn.i) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)


def stopped(kind: str, folder: Path) -> None:
    learn = learner(kind, callbacks.CheckpointCallback(folder, every=2), Interrupt())
    with pytest.raises(SystemExit):
        learn.fit(3)


def resumed(kind: str, folder: Path) -> dict[str, Any]:
    learn = learner(kind, callbacks.CheckpointCallback(folder, every=2))
    learn.fit(3, resume=True)
    return results(learn)


def uninterrupted() -> dict[str, Any]:
    learn = learner("shards")
    learn.fit(3)
    return results(learn)


@pytest.fixture
def one(tmp_path):
    learn = learner("shards", callbacks.CheckpointCallback(tmp_path / "one"))
    learn.fit(3)
    return results(learn)


def folders_of(folder: Path, suffix: str) -> list[str]:
    return sorted(path.stem.removesuffix(".best") for path in folder.glob(f"*{suffix}"))


@pytest.mark.filterwarnings("ignore:results may differ in the last bits")
def test_what_is_stopped_on_two_goes_on_with_one_two_or_four_in_shards_or_not(tmp_path, one):
    launch(stopped, 2, "shards", tmp_path / "of two")
    assert len(folders_of(tmp_path / "of two", ".pt")) == 3
    for i, (world, kind) in enumerate([(1, "shards"), (2, "shards"), (4, "shards"), (2, "whole")]):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "of two", folder)
        assert_same(launch(resumed, world, kind, folder), one)
        is_in_shards = world > 1 and kind == "shards"
        assert folders_of(folder, ".shards") == (folders_of(folder, ".pt") if is_in_shards else [])  # old ones are gone


@pytest.mark.filterwarnings("ignore:results may differ in the last bits")
@pytest.mark.parametrize(("world", "kind"), [(1, "shards"), (2, "whole")])
def test_what_was_written_whole_goes_on_in_shards(tmp_path, one, world, kind):
    launch(stopped, world, kind, tmp_path)
    assert folders_of(tmp_path, ".shards") == []
    assert_same(launch(resumed, 2, "shards", tmp_path), one)


# -- between fits ---------------------------------------------------------------------------------------------------


def saved(path: Path) -> dict[str, Any]:
    """Return what a fit more gives after saving; write the weights before, as a whole, as well."""
    learn = learner("shards", has_unused=True)
    learn.fit(1)
    learn.save(path)
    learn.fit(1)
    learn.save(path)  # in the place of the other one
    learn.export(path.with_name("weights.pt"))
    learn.fit(1)
    with pytest.raises(LearnerError, match=r"plain data, got a tensor of .*DTensor, of which each process has a part"):
        plain_file(learn, path.with_name("other.pt"))
    return results(learn)


def plain_file(learn: Learner, path: Path) -> None:
    try:
        write_checkpoint(path, {"weight": learn.model[0].weight})
    except TypeError as error:
        raise LearnerError(str(error)) from None


def loaded(path: Path, is_in_shards: bool) -> dict[str, Any]:
    learn = learner("shards", has_unused=True)
    if is_in_shards:
        learn.fit(0)
    learn.load(path)
    assert is_model_in_shards(learn.model) == (is_in_shards and learn.job.world > 1)
    learn.fit(1)
    return results(learn)


def test_save_load_and_export_of_a_model_in_shards(tmp_path):
    path = tmp_path / "learn.pt"
    expected = launch(saved, 2, path)
    assert len(list(tmp_path.glob("learn.pt-*.shards"))) == 1
    assert len(list(tmp_path.iterdir())) == 3
    for world, is_in_shards in [(1, False), (2, False), (2, True), (3, True)]:
        assert_same(launch(loaded, world, path, is_in_shards), expected)
    exported = torch.load(tmp_path / "weights.pt", weights_only=True)
    learn = learner("shards", has_unused=True)
    learn.load(path)
    assert list(exported) == list(learn.model.state_dict())
    assert all(torch.equal(exported[name], value) for name, value in learn.model.state_dict().items())


# -- what is not whole ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of checkpoints in shards."""
    folder = tmp_path_factory.mktemp("checkpoints")
    launch(fitted, 2, folder)
    return folder


def fitted(folder: Path) -> None:
    learner("shards", callbacks.CheckpointCallback(folder)).fit(2)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_folder_that_is_not_whole_is_not_found(copied):
    *_, before, last = sorted(copied.glob("*.pt"))
    (copied / f"{last.stem}.shards" / ".metadata").unlink()
    with pytest.warns(RuntimeWarning, match=r"step-00000010\.shards` is not there as a whole\. `.*` is used"):
        path, _ = CheckpointFolder(copied).newest()
    assert path == before
    state = read_checkpoint(last)
    with pytest.raises(ShardsError, match=r"step-00000010\.shards`, of .* is not there as a whole"):
        read_shards(state, last, nn.Linear(1, 1), ALONE)


def test_what_an_interrupted_writing_has_left_is_cleared_away(copied):
    (copied / "step-00000099.shards.tmp").mkdir()
    (copied / "step-00000099.shards.tmp" / "__0_0.distcp").write_bytes(b"half of it")
    with CheckpointFolder(copied) as folder:
        assert not list(copied.glob("*.tmp"))
        assert folder.new_shards(10).name == "step-00000010-1.shards"
        assert folder.new_shards(11).name == "step-00000011.shards"
        (copied / "step-00000011.shards").mkdir()  # whose file did not come
        folder.save({"loss": 1.0}, 12)
        assert not (copied / "step-00000011.shards").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_metadata_that_would_run_code_is_refused(copied):
    last = max(copied.glob("*.pt"))
    (copied / f"{last.stem}.shards" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ShardsError, match=r"cannot be read: UnpicklingError: it names (posix|nt)\.system"):
        read_shards(read_checkpoint(last), last, nn.Linear(1, 1), ALONE)


def test_a_metadata_that_names_files_elsewhere_is_refused(copied):
    last = max(copied.glob("*.pt"))
    file = copied / f"{last.stem}.shards" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = "../elsewhere"
    file.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ShardsError, match=r"names the file '\.\./elsewhere', which is not in it"):
        read_shards(read_checkpoint(last), last, nn.Linear(1, 1), ALONE)


def test_the_name_of_a_folder_leads_nowhere_else(copied):
    last = max(copied.glob("*.pt"))
    state = {**read_checkpoint(last), "shards": f"../{copied.name}/../../step-00000010.shards"}
    whole = read_shards(state, last, nn.Linear(1, 1), ALONE)  # the folder beside the file, by its last name
    assert whole["model"]["state"]["0.weight"].shape == (17, 10)


def test_a_damaged_shard_is_an_error(copied):
    last = max(copied.glob("*.pt"))
    for file in (copied / f"{last.stem}.shards").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ShardsError, match=r"step-00000010\.shards` cannot be read: \w+"):
        read_shards(read_checkpoint(last), last, nn.Linear(1, 1), ALONE)


def unwritable(folder: Path) -> list[str]:
    learn = learner("shards")
    learn.fit(0)
    file = folder / "a file"
    learn.job.from_first(lambda: file.write_bytes(b"") and None, at="a file")
    with pytest.raises(ShardsError, match=r"shards` cannot be written: .*a file"):
        write_shards({"weight": learn.model[0].weight}, file / "a.shards", learn.job)
    return learn.job.gather("goes on", at="the end")


def test_a_folder_that_cannot_be_written_is_one_error_of_all(tmp_path):
    assert launch(unwritable, 2, tmp_path) == ["goes on"] * 2
