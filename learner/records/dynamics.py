"""How each sample was learnt over the epochs: what tells mislabelled, ambiguous and easy samples apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.errors import LearnerError
from learner.records.choosing import checked_k
from learner.records.listing import Listing, pandas
from learner.records.samples import Samples

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Dynamics:
    """How samples were learnt, as `dynamics` found it: arrays of one entry per sample.

    Attributes:
        samples: the rows that it was taken from.
        epochs: in which there are any.
        example_ids: of the samples, rising.
        n_epochs: in how many epochs each sample came.
        confidence: mean probability of its class [0-1].
        variability: standard deviation of that probability over the epochs.
        correctness: share of the epochs in which it was right [0-1].
        aum: area under the margin, which is the mean margin; NaN where margins were not recorded.
        forgetting_events: how often it was right, and wrong the next time that it came.
        is_learned: whether it was ever right; what never was could not be forgotten either.
        first_learned: the first epoch in which it was right, -1 if none.
    """

    samples: Samples
    epochs: np.ndarray
    example_ids: np.ndarray
    n_epochs: np.ndarray
    confidence: np.ndarray
    variability: np.ndarray
    correctness: np.ndarray
    aum: np.ndarray
    forgetting_events: np.ndarray
    is_learned: np.ndarray
    first_learned: np.ndarray

    def suspects(self, k: int = 20) -> Listing:
        """Return the k samples whose labels are most likely wrong, and why; printed it is a table.

        A sample is one only if another class than its label was said in most epochs (of several classes the first
        counts), so there may be fewer, or none; without a column `label`, if it was wrong in at least half of them.
        They come by area under the margin, lowest first; ties, and all if there is none, by confidence.

        Returns:
            The columns `example_id`, `label` if there is one, `said` (the class in most epochs), `aum`, `confidence`
            and `reason`.

        Raises:
            ValueError: if there is no column `predicted`.

        Source:
            Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking".
        """
        n_most, has_label = checked_k(k), "label" in self.samples.scalars
        chosen = np.lexsort((self.confidence, self.aum))
        # With most epochs right no other class can have been said in most of them.
        chosen = chosen[self.correctness[chosen] <= 0.5]
        ids = self.example_ids[chosen]
        rows = self.samples.where(example_id=ids)
        said, n_said = _most_said(rows, ids)
        labels = _labels(rows, ids) if has_label else None
        kept = np.flatnonzero(np.ones(len(ids), bool) if labels is None else labels != said)[:n_most]
        chosen, ids, said, n_said = chosen[kept], ids[kept], said[kept], n_said[kept]
        columns: dict[str, Any] = {"example_id": ids}
        if labels is not None:
            columns["label"] = labels[kept]
        columns |= {"said": said, "aum": self.aum[chosen], "confidence": self.confidence[chosen]}
        reasons = []
        for i, n_epochs in enumerate(self.n_epochs[chosen]):
            reason = f"said {said[i]} in {n_said[i]} of {n_epochs} epochs"
            reason += f", label {columns['label'][i]}" if "label" in columns else ""
            reason += "" if np.isnan(columns["aum"][i]) else f", margin {columns['aum'][i]:.1f}"
            reasons.append(reason)
        return Listing({**columns, "reason": reasons})

    def plot(self) -> Figure:
        """Draw the data map: confidence against variability, coloured by correctness; return the figure."""
        from learner.records.report.pictures import data_map

        return data_map(self.confidence, self.variability, self.correctness)

    def plot_suspects(self, k: int = 16, image: Callable[[Any], Any] | None = None) -> Figure:
        """Draw the k samples whose labels are most likely wrong, with the reasons; return the figure.

        Args:
            k: how many.
            image: a function of a sample that gives what to draw, as `lambda sample: sample[0].reshape(8, 8)`.

        Raises:
            LearnerError: if there are none.
        """
        from learner.records.report.images import sample_grid

        found = self.suspects(k)
        if not len(found):
            raise LearnerError("`plot_suspects` must have labels in doubt, and there are none; see `suspects()`.")
        ids, reasons = found["example_id"], found["reason"]
        lines = [reason.replace(", ", "\n").replace(" in ", "\nin ") for reason in reasons]
        captions = [f"#{i}\n{words}" for i, words in zip(ids, lines, strict=True)]
        return sample_grid(self.samples.drawable(ids, image), captions, "labels most likely wrong")

    def to_pandas(self) -> pd.DataFrame:
        """Return all but the epochs as a data frame, a row for each sample.

        Raises:
            ImportError: if pandas is not installed.
        """
        names = [field.name for field in fields(self) if field.name not in ("samples", "epochs")]
        return pandas().DataFrame({name: getattr(self, name) for name in names})

    def __len__(self) -> int:
        return len(self.example_ids)

    def __repr__(self) -> str:
        return f"Dynamics({len(self):,} samples, {len(self.epochs)} epochs, {(~self.is_learned).sum():,} never right)"


def dynamics(samples: Samples, column: str = "true_probability", *, split: str | None = None) -> Dynamics:
    """Return how each sample was learnt over the epochs of training.

    A sample counts in those epochs in which it came. Of several rows in one epoch (a weighted sampler) the means
    count; it was right if it was in more than half of them. Where a recorded number is NaN, so is what is made of it.

    - confidence: mean of the probability of the true class, over the epochs [0-1]; variability: its standard
      deviation, divided by the number of epochs, not by one less; correctness: the share of epochs in which the sample
      was right (Swayamdipta et al. 2020, "Dataset Cartography", section 2, where it is a count).
    - area under the margin: mean over the epochs of the margin, the logit of the true class less the largest other
      logit (Pleiss et al. 2020, equations 1 and 2).
    - forgetting events: from right to wrong between an epoch and the next in which the sample comes (Toneva et al.
      2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning", section 3). What was never
      right has none, which is no praise: `is_learned` tells it from what was never forgotten.
    - first learned: the first epoch in which it was right, -1 if never; that it stayed so is not asked.

    Args:
        samples: with the columns `example_id`, `epoch` and `accuracy`; `margin` for the area under it, `predicted` and
            `label` for the reasons of suspects.
        column: of the probability of the true class.
        split: the split of training; if None the only one that begins with "train", or the only one.

    Raises:
        ValueError: if a column is missing, or there are several splits to choose from.

    Example:
        >>> from learner.records.arrow import to_arrow
        >>> columns = {"example_id": np.array([0, 1, 0, 1]), "epoch": np.array([0, 0, 1, 1])}
        >>> columns["true_probability"] = np.array([0.5, 0.25, 1.0, 0.75])
        >>> columns["accuracy"] = np.array([True, False, True, True])
        >>> found = dynamics(Samples([to_arrow(columns)]))
        >>> found.confidence, found.variability, found.first_learned
        (array([0.75, 0.5 ]), array([0.25, 0.25]), array([0, 1]))
    """
    samples = _of_training(samples, split)
    if not len(samples):
        raise ValueError("`samples` must hold rows, got none; see what was chosen by `where`.")
    has_margin = "margin" in samples.scalars
    cells = samples.cells([column, "accuracy", *["margin"] * has_margin])
    seen = cells.counts > 0
    n_epochs = seen.sum(1)
    confidence = _mean(cells.values[column], seen)
    variability = np.sqrt(_mean((cells.values[column] - confidence[:, None]) ** 2, seen))
    right = seen & (cells.values["accuracy"] > 0.5)
    is_learned = np.asarray(right.any(1))
    return Dynamics(
        samples=samples,
        epochs=cells.epochs,
        example_ids=cells.example_ids,
        n_epochs=n_epochs,
        confidence=confidence,
        variability=variability,
        correctness=right.sum(1) / n_epochs,
        aum=_mean(cells.values["margin"], seen) if has_margin else np.full(len(n_epochs), np.nan),
        forgetting_events=_forgetting_events(right, seen),
        is_learned=is_learned,
        first_learned=np.where(is_learned, cells.epochs[right.argmax(1)], -1),
    )


def _of_training(samples: Samples, split: str | None) -> Samples:
    if not isinstance(samples, Samples):
        raise TypeError(f"`samples` must be Samples, got {type(samples).__name__}; of a callback they are `.samples`.")
    splits = samples.splits
    if split is None and len(splits) > 1:
        training = [name for name in splits if name.startswith("train")]
        if len(training) != 1:
            raise ValueError(f"`split` must be given, got several to choose from: {', '.join(splits)}.")
        split = training[0]
    if split is None:
        return samples
    if split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits) or 'none'}, got {split!r}.")
    return samples.where(split=split)


def _mean(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the mean over the epochs in which a sample came; NaN in one of those is not passed over."""
    return np.asarray(np.where(seen, values, 0.0).sum(1) / seen.sum(1))


def _forgetting_events(right: np.ndarray, seen: np.ndarray) -> np.ndarray:
    was_right = np.zeros(len(right), bool)  # the last time that each came
    events = np.zeros(len(right), np.int64)
    for right_now, seen_now in zip(right.T, seen.T, strict=True):
        events += was_right & seen_now & ~right_now
        was_right = np.where(seen_now, right_now, was_right)
    return events


def _most_said(rows: Samples, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each id the class that was said in most epochs, and in how many."""
    words, said = np.unique(rows.words("predicted"), return_inverse=True)
    epochs = np.unique(rows.numpy("epoch"), return_inverse=True)[1]
    places = _places(rows.numpy("example_id"), ids)
    # Once an epoch, also if the sample came more often.
    once = np.unique(np.stack([places, said, epochs]), axis=1)
    (place, word), counts = np.unique(once[:2], axis=1, return_counts=True)
    order = np.lexsort((word, -counts, place))  # of each sample the most frequent first, of equal ones the first
    first = order[np.unique(place[order], return_index=True)[1]]
    return words[word[first]], counts[first]


def _labels(rows: Samples, ids: np.ndarray) -> np.ndarray:
    labels = np.empty(len(ids), object)
    labels[_places(rows.numpy("example_id"), ids)] = rows.words("label")
    return labels


def _places(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return where among the ids, each of which is there once, each value is."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], values)]
