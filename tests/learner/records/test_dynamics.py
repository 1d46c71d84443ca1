"""Dynamics: against a slow reference written from the definitions, and on digits with planted wrong labels."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from learner import LearnerError
from learner.records.arrow import to_arrow
from learner.records.dynamics import dynamics
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel
from learner.records.table import Table


def made(columns, schemas=None, table=None):
    return Samples(
        [to_arrow({name: np.asarray(values) for name, values in columns.items()}, schemas or {})], table=table
    )


def random_rows(n=40, n_epochs=7, seed=0):
    """Rows of samples that are left out of some epochs and come several times in others, as by a weighted sampler."""
    rng = np.random.default_rng(seed)
    rows = []
    for epoch in range(1, 2 * n_epochs, 2):
        for i in rng.integers(0, n, int(1.5 * n)):
            probability = rng.random()
            rows.append((10 * i, epoch, probability, rng.normal(), rng.random() < 0.5, rng.integers(0, 4), i % 4))
    names = ("example_id", "epoch", "true_probability", "margin", "accuracy", "predicted", "label")
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def reference(rows, example_id):
    """Return what is known of one sample, by loops over its epochs."""
    mine = [i for i in range(len(rows["epoch"])) if rows["example_id"][i] == example_id]
    epochs = sorted({int(rows["epoch"][i]) for i in mine})
    of = {e: [i for i in mine if rows["epoch"][i] == e] for e in epochs}
    p, margin = ([sum(rows[c][i] for i in of[e]) / len(of[e]) for e in epochs] for c in ("true_probability", "margin"))
    right = [sum(bool(rows["accuracy"][i]) for i in of[e]) > len(of[e]) / 2 for e in epochs]
    mean = sum(p) / len(p)
    forgotten = sum(before and not now for before, now in itertools.pairwise(right))
    return {
        "n_epochs": len(epochs),
        "confidence": mean,
        "variability": (sum((x - mean) ** 2 for x in p) / len(p)) ** 0.5,
        "correctness": sum(right) / len(right),
        "aum": sum(margin) / len(margin),
        "forgetting_events": forgotten,
        "is_learned": any(right),
        "first_learned": next((e for e, r in zip(epochs, right, strict=True) if r), -1),
    }


@pytest.mark.parametrize("seed", range(3))
def test_dynamics_are_the_definitions(seed):
    rows = random_rows(seed=seed)
    found = dynamics(made(rows))
    assert found.example_ids.tolist() == sorted(set(rows["example_id"].tolist()))
    for i, example_id in enumerate(found.example_ids):
        for name, value in reference(rows, example_id).items():
            assert getattr(found, name)[i] == pytest.approx(value, abs=1e-12), name
    assert found.forgetting_events.max() > 1
    assert not found.is_learned.all()
    assert (found.n_epochs < len(found.epochs)).any()


def test_a_case_by_hand():
    rows = {
        "example_id": [0] * 4 + [1] * 4,
        "epoch": [0, 1, 2, 3] * 2,
        "true_probability": [0.2, 0.8, 0.4, 0.6] + [0.1] * 4,
        "margin": [-1.0, 2.0, -0.5, 0.5] + [-3.0] * 4,
        "accuracy": [0, 1, 0, 1] + [0] * 4,
    }
    found = dynamics(made(rows))
    np.testing.assert_allclose(found.confidence, [0.5, 0.1])
    np.testing.assert_allclose(found.variability, [np.sqrt(0.05), 0], atol=1e-12)
    assert found.correctness.tolist() == [0.5, 0.0]
    assert found.aum.tolist() == [0.25, -3.0]
    assert found.forgetting_events.tolist() == [1, 0]
    assert found.is_learned.tolist() == [True, False]
    assert found.first_learned.tolist() == [1, -1]
    assert repr(found) == "Dynamics(2 samples, 4 epochs, 1 never right)"


def test_what_is_nan_shows_and_margins_may_be_missing():
    rows = {"example_id": [0, 1, 0, 1], "epoch": [0, 0, 1, 1], "accuracy": [1, 1, 1, 1]}
    found = dynamics(made({**rows, "true_probability": [0.5, 0.5, np.nan, 0.5]}))
    np.testing.assert_array_equal(found.confidence, [np.nan, 0.5])
    np.testing.assert_array_equal(found.variability, [np.nan, 0.0])
    assert np.isnan(found.aum).all()
    assert dynamics(made({**rows, "p": [0.25] * 4}), "p").confidence.tolist() == [0.25, 0.25]


def test_the_training_split_is_found():
    rows = random_rows()
    splits = np.array(["train", "valid"])[np.arange(len(rows["epoch"])) % 2]
    both = made({**rows, "split": splits})
    assert len(dynamics(both).samples) == (splits == "train").sum()
    assert len(dynamics(both, split="valid").samples) == (splits == "valid").sum()
    assert len(dynamics(both.where(split="valid")).samples) == (splits == "valid").sum()
    with pytest.raises(ValueError, match="`split` must be one of train, valid, got 'trian'"):
        dynamics(both, split="trian")
    renamed = made({**rows, "split": np.where(splits == "train", "train", "train2")})
    with pytest.raises(ValueError, match="`split` must be given, got several to choose from: train, train2"):
        dynamics(renamed)


def test_what_is_missing_is_named():
    rows = random_rows()
    for name in ("true_probability", "accuracy"):
        with pytest.raises(ValueError, match=f"`{name}` must be a column"):
            dynamics(made({key: values for key, values in rows.items() if key != name}))
    with pytest.raises(ValueError, match="`samples` must have a column 'epoch'"):
        dynamics(made({key: values for key, values in rows.items() if key != "epoch"}))
    with pytest.raises(TypeError, match="`samples` must be Samples, got dict"):
        dynamics(rows)
    with pytest.raises(ValueError, match="`predicted` must be a column"):
        dynamics(made({key: values for key, values in rows.items() if key != "predicted"})).suspects()


# -- suspects ------------------------------------------------------------------------------------------------------


def test_suspects_come_by_margin_then_confidence_with_a_reason():
    classes = CategoricalLabel("label", ["cat", "dog", "eel"])
    rows = {
        "example_id": [4, 4, 4, 7, 7, 7, 9, 9, 9, 9],
        "epoch": [0, 1, 2, 0, 1, 2, 0, 1, 2, 2],
        "true_probability": [0.4] * 3 + [0.1] * 3 + [0.2] * 4,
        "margin": [2.0] * 3 + [-3.25] * 3 + [-3.25] * 4,
        "accuracy": [1] * 3 + [0] * 7,
        "label": [0] * 3 + [1] * 3 + [0] * 4,
        "predicted": [0, 0, 0, 2, 0, 2, 1, 2, 2, 2],
    }
    found = dynamics(made(rows, {"label": classes, "predicted": classes})).suspects(9)
    assert found["example_id"].tolist() == [7, 9]  # the label of 4 is what was said
    assert found["label"].tolist() == ["dog", "cat"]
    assert found["said"].tolist() == ["eel", "eel"]
    assert found["reason"].tolist() == [
        "said eel in 2 of 3 epochs, label dog, margin -3.2",
        "said eel in 2 of 3 epochs, label cat, margin -3.2",  # it came twice in the last epoch, which counts once
    ]
    assert "said eel in 2 of 3 epochs" in repr(found)
    assert len(dynamics(made(rows)).suspects(2)) == 2
    agreed = dynamics(made(rows).where(example_id=4))
    assert len(agreed.suspects()) == 0
    with pytest.raises(LearnerError, match="`plot_suspects` must have labels in doubt, and there are none"):
        agreed.plot_suspects()
    del rows["label"], rows["margin"]
    bare = dynamics(made(rows)).suspects(1)
    assert (bare["example_id"].tolist(), bare["reason"].tolist()) == ([7], ["said 2 in 2 of 3 epochs"])


@pytest.fixture(scope="module")
def digits():
    """Rows recorded while a small network learns digits of which a tenth has a wrong label."""
    data = load_digits()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    flipped = torch.randperm(len(x), generator=generator)[: len(x) // 10]
    label = y.clone()
    label[flipped] = (y[flipped] + torch.randint(1, 10, (len(flipped),), generator=generator)) % 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    opt = torch.optim.Adam(model.parameters(), 2e-3)
    parts = []
    for epoch in range(20):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            out = model(x[batch])
            loss = nn.functional.cross_entropy(out, label[batch])
            with torch.no_grad():
                target = label[batch][:, None]
                true = out.gather(1, target)[:, 0]
                columns = {
                    "example_id": batch,
                    "epoch": torch.full_like(batch, epoch),
                    "label": label[batch],
                    "predicted": out.argmax(1),
                    "accuracy": out.argmax(1) == label[batch],
                    "true_probability": out.softmax(1).gather(1, target)[:, 0],
                    "margin": true - out.scatter(1, target, -torch.inf).amax(1),
                }
            opt.zero_grad()
            loss.backward()
            opt.step()
            parts.append({name: values.numpy() for name, values in columns.items()})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = Table.from_dict({"image": x.view(-1, 8, 8), "label": label})
    return made(whole, table=table), np.isin(np.arange(len(x)), flipped.numpy()), y.numpy()


def test_planted_wrong_labels_are_found(digits):
    samples, is_flipped, true = digits
    found = dynamics(samples)
    assert roc_auc_score(is_flipped, -found.aum) >= 0.99
    suspects = found.suspects(is_flipped.sum())
    assert is_flipped[suspects["example_id"]].mean() >= 0.93
    first = suspects["example_id"][0]
    assert suspects["reason"][0].startswith(f"said {true[first]} in ")


def test_pictures_of_dynamics(digits):
    found = dynamics(digits[0])
    assert len(found.plot().axes[0].collections[0].get_offsets()) == len(found)
    figure = found.plot_suspects(4)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == [f"#{i}" for i in found.suspects(4)["example_id"]]
    plt.close("all")


def test_dynamics_become_a_frame(digits):
    found = dynamics(digits[0])
    frame = found.to_pandas()
    assert len(frame) == len(found) == 1797
    assert list(frame) == [
        "example_ids", "n_epochs", "confidence", "variability", "correctness", "aum", "forgetting_events",
        "is_learned", "first_learned",
    ]  # fmt: skip


def test_no_rows_are_told():
    empty = made({"example_id": [1], "epoch": [0], "true_probability": [0.5], "accuracy": [1]}).where(epoch=7)
    with pytest.raises(ValueError, match="`samples` must hold rows, got none; see what was chosen by `where`"):
        dynamics(empty)
