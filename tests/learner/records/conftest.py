"""What many tests of samples begin with."""

import numpy as np
import pandas as pd
import pytest

from learner.records.samples import Samples
from learner.records.table import Table
from learner.records.writer import SampleWriter
from tests.learner.records.recorded import ANIMALS, EPOCHS, N, columns_of


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return Table.from_dict({"image": rng.random((N, 5, 5)), "label": np.arange(N) % 3}, "animals")


@pytest.fixture
def files(tmp_path, table):
    paths = []
    for split in ("train", "valid"):
        for epoch in range(EPOCHS):
            schemas = {"label": ANIMALS, "predicted": ANIMALS}
            name = f"{split}-{epoch:04d}"
            with SampleWriter(tmp_path, name, schemas=schemas, fingerprint=table.fingerprint) as writer:
                writer.add(columns_of(split, epoch))
            paths.append(tmp_path / "samples" / f"{name}.parquet")
    return paths


@pytest.fixture
def samples(files, table):
    return Samples(files, table=table)


@pytest.fixture
def frame():
    """What the files hold, by other means."""
    frames = []
    for split in ("train", "valid"):
        for epoch in range(EPOCHS):
            columns = columns_of(split, epoch)
            columns.pop("embeddings_1")
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
