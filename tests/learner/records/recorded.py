"""Samples as a training records them, and the same as a data frame."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from learner.records.arrow import to_arrow
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel

ANIMALS = CategoricalLabel("label", ["cat", "dog", "eel"])
N, EPOCHS, WIDTH = 12, 3, 4


def columns_of(split: str, epoch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 * epoch + len(split))
    order = rng.permutation(N)
    return {
        "example_id": order,
        "epoch": np.full(N, epoch),
        "split": np.array([split] * N),
        "label": order % 3,
        "predicted": rng.integers(0, 3, N),
        "loss": rng.random(N).astype(np.float32),
        "accuracy": rng.random(N) < 0.5,
        "embeddings_1": rng.random((N, WIDTH)).astype(np.float16),
    }


def made(columns, schemas=None, fingerprint=None, **kwargs):
    part = to_arrow({name: np.asarray(values) for name, values in columns.items()}, schemas or {})
    if fingerprint:
        part = part.replace_schema_metadata({**(part.schema.metadata or {}), b"learner.table_fingerprint": fingerprint})
    return Samples([part], **kwargs)


@contextmanager
def full_disk(n_bytes: int = 0) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk that is full: "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
