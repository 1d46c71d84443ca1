"""A tiny model and tiny data, the same for every test."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn
from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController

from learner import Learner, Loaders

matplotlib.use("Agg")
TRACKIO = tempfile.TemporaryDirectory()  # it is asked for when trackio is imported
os.environ |= {"TRACKIO_DIR": TRACKIO.name, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
os.fsync = lambda handle: None  # type: ignore[assignment]  # killed are processes here, never the machine
torch.set_num_threads(1)  # the tests are many and small, and machines are shared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests marked `serial` run in one process, one after the other."""
    for item in items:
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))


def pytest_collection_finish() -> None:
    """Keep what is there for good, modules and tests, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


# What takes longest for its number of tests, by which xdist sorts the rest: at the end one process would wait for it.
FIRST = (
    "serial", "tests/test_site.py", "tests/examples/test_every_example.py", "tests/learner/checkpoint/test_exchange.py",
    "tests/learner/records/report/test_sample_table.py", "tests/learner/records/report/test_report.py",
    "tests/learner/test_main.py", "tests/learner/replay/test_find.py", "tests/test_gan.py",
)  # fmt: skip


class ByGroupOrFile(LoadGroupScheduling):
    """Run the tests of a group in one process, and those of a file too, which share fixtures and caches."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        for scope in reversed(FIRST):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        group = super()._split_scope(nodeid)
        return nodeid.partition("::")[0] if group == nodeid else group


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadGroupScheduling | None:
    return ByGroupOrFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` writes down the stack for each kind of accelerator


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    """Forget what other tests of this process have compiled: what was compiled eight times is compiled no more."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    """Close what a test leaves open, for others in this process look at what is."""
    yield
    plt.close("all")


@pytest.fixture
def dls() -> Loaders:
    """Three classes of 40 and 20 points in four dimensions; batches of 16, the last ones shorter."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (60,), generator=generator)
    x = torch.randn(60, 4, generator=generator) + y[:, None].float()
    return Loaders.from_arrays(train=(x[:40], y[:40]), valid=(x[40:], y[40:]), batch_size=16)


@pytest.fixture
def make_learner(dls: Loaders) -> Callable[..., Learner]:
    """Make a learner of a two-layer network on `dls`; keywords go to `Learner`."""

    def make(cbs: object = None, **kwargs: object) -> Learner:
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        given = {"model": model, "dls": dls, "loss_f": nn.functional.cross_entropy, "lr": 0.1, "cbs": cbs, **kwargs}
        return Learner(**given)  # type: ignore[arg-type]

    return make
