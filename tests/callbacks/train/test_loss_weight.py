"""Losses that are means over tokens: what is averaged and accumulated weighs by `learn.weight`."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import AccumulateCallback, LossWeightCallback, MetricsCallback
from learner import Callback, Learner, LearnerError

N, LENGTH, CLASSES = 24, 16, 5


def sequences(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of sequences with 1 to 16 targets that count."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, LENGTH, 3, generator=generator, dtype=dtype)
    y = torch.randint(CLASSES, (N, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (N, 1), generator=generator)
    return x, torch.where(torch.arange(LENGTH) < lengths, y, -100)


def batches(size: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(t.split(size) for t in sequences(dtype)), strict=True))


def token_loss(preds: Tensor, yb: Tensor) -> Tensor:
    return cross_entropy(preds.flatten(0, 1), yb.flatten(), ignore_index=-100)


def trained(data: list[Any], cbs: Any = None, n: int = 3) -> Learner:
    torch.manual_seed(0)
    model = nn.Linear(3, CLASSES).to(data[0][0].dtype)
    opt_func = lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9)
    learn = Learner(model, {"train": data, "valid": data}, token_loss, lr=0.3, opt_func=opt_func, cbs=cbs)
    learn.fit(n)
    return learn


def count(learn: Learner) -> Tensor:
    return (learn.yb != -100).sum()


@pytest.mark.parametrize(
    "weight", [{"ignore_index": -100}, {"weight_of": count}, {"weight_of": lambda learn: int(count(learn))}]
)
def test_small_batches_weighed_by_tokens_are_a_large_one(weight):
    large = trained(batches(12), LossWeightCallback(ignore_index=-100))
    small = trained(batches(3), [AccumulateCallback(4), LossWeightCallback(**weight)])
    by_samples = trained(batches(3), AccumulateCallback(4))
    assert (large.model.weight - by_samples.model.weight).abs().max() > 1e-3  # it does matter here
    assert (large.model.weight - small.model.weight).abs().max() <= 1e-15
    for row, other in zip(large.history, small.history, strict=True):
        assert row == pytest.approx(other, rel=1e-14)


def test_the_loss_of_a_pass_is_the_mean_over_its_tokens():
    learn = trained(batches(5), LossWeightCallback(ignore_index=-100), n=1)
    x, y = sequences()
    expected = token_loss(learn.model(x), y).item()
    assert learn.metrics["valid"]["loss"] == pytest.approx(expected, abs=1e-15)


def test_logged_values_and_functions_weigh_as_the_loss_and_samples_are_counted():
    class Twice(Callback):
        def after_loss(self, learn: Learner) -> None:
            learn.log(twice=2 * learn.loss.detach())

    cbs = [Twice(), LossWeightCallback(ignore_index=-100), MetricsCallback(again=token_loss)]
    learn = trained(batches(5), cbs, n=1)
    metrics = learn.metrics["valid"]
    assert metrics["twice"] == pytest.approx(2 * metrics["loss"], abs=1e-15)
    assert metrics["again"] == pytest.approx(metrics["loss"], abs=1e-15)
    assert learn.n_samples == N


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
def test_a_batch_without_any_target_changes_nothing(dtype, bound):
    data = batches(3, dtype)
    x, y = data[0]
    empty = (x, torch.full_like(y, -100))
    assert token_loss(torch.zeros(3, LENGTH, CLASSES), empty[1]).isnan()
    cbs = [AccumulateCallback(2), LossWeightCallback(ignore_index=-100)]
    # In a window of its own batch and an empty one, first or last, the own one decides.
    alone = trained(data, LossWeightCallback(ignore_index=-100))
    first = trained([batch for one in data for batch in (empty, one)], cbs)
    last = trained([batch for one in data for batch in (one, empty)], cbs)
    for learn in (first, last):
        assert (alone.model.weight - learn.model.weight).abs().max() <= bound
        assert [row["train/loss"] for row in learn.history] == pytest.approx(alone.history.to_dict()["train/loss"])


def test_a_step_without_any_target_is_made_with_no_gradient_and_said():
    data = batches(3)
    empty = (data[0][0], torch.full_like(data[0][1], -100))
    with pytest.warns(RuntimeWarning, match="2 optimizer steps of the pass over 'train' had batches of weight 0"):
        learn = trained([*data, empty, empty], LossWeightCallback(ignore_index=-100), n=1)
    torch.manual_seed(0)
    model = nn.Linear(3, CLASSES).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for x, y in [*data, empty, empty]:
        token_loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    assert torch.equal(model.weight, learn.model.weight)
    assert math.isfinite(learn.history[-1]["train/loss"])


def test_a_pass_without_any_target_is_an_error():
    x, y = batches(3)[0]
    with pytest.raises(LearnerError, match=r"a pass over 'train' must have a batch that counts, but"):
        trained([(x, torch.full_like(y, -100))], LossWeightCallback(ignore_index=-100))


def test_a_learner_of_ones_own_may_set_the_weight():
    class Tokens(Learner):
        def get_loss(self) -> None:
            super().get_loss()
            self.weight = count(self)

    x, y = sequences()
    torch.manual_seed(0)
    learn = Tokens(nn.Linear(3, CLASSES).double(), {"valid": batches(5)}, token_loss)
    assert learn.validate()["loss"] == pytest.approx(token_loss(learn.model(x), y).item(), abs=1e-15)
    learn.add_cb(LossWeightCallback(ignore_index=-100))
    with pytest.raises(LearnerError, match=r"`learn\.weight` must be set in one place"):
        learn.validate()


def test_a_validation_within_a_batch_gives_the_weight_back():
    class Look(Callback):
        order = 10

        def after_loss(self, learn: Learner) -> None:
            if learn.training:
                before = learn.weight
                learn.validate()
                assert learn.weight is before

    plain, looked = (trained(batches(5), [LossWeightCallback(ignore_index=-100), *more]) for more in ([], [Look()]))
    assert torch.equal(plain.model.weight, looked.model.weight)
    assert [row["train/loss"] for row in plain.history] == [row["train/loss"] for row in looked.history]


def test_the_weight_of_a_batch_is_not_that_of_the_next():
    seen = []

    class Once(Callback):
        def after_loss(self, learn: Learner) -> None:
            seen.append(learn.weight)
            learn.weight = 7.0

    trained(batches(12), Once(), n=1)
    assert seen == [None] * 4


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, "at least 0, .*, got -1;"),
        (math.nan, "got nan"),
        (math.inf, "got inf"),
        (True, "got True"),
        ("many", "got 'many'"),
        (torch.tensor(-2), "got -2"),
        (torch.tensor(math.nan), "got nan"),
        (torch.ones(3), r"got .*3"),
    ],
)
def test_a_weight_that_is_none_is_one_error(value, error):
    with pytest.raises(LearnerError, match=f"`learn.weight` must be one finite number .*{error}"):
        trained(batches(12), LossWeightCallback(weight_of=lambda learn: value))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "must have one of `ignore_index` and `weight_of`, got neither"),
        ({"ignore_index": 1, "weight_of": len}, "got both"),
        ({"ignore_index": 1.5}, "`ignore_index` must be a whole number, got 1.5"),
        ({"weight_of": 3}, "`weight_of` must be called as weight_of"),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises((TypeError, ValueError), match=error):
        LossWeightCallback(**options)


def test_a_target_that_is_no_tensor_cannot_be_counted():
    learn = Learner(nn.Linear(1, 1), {"valid": [(torch.ones(2, 1), {"a": torch.ones(2)})]}, lambda p, y: p.sum())
    with pytest.raises(LearnerError, match=r"`learn\.yb` must be a tensor for its labels to be counted"):
        learn.validate(cbs=LossWeightCallback(ignore_index=-100))


def test_lr_find_weighs_by_tokens_and_passes_over_a_batch_without_target():
    data = batches(3)
    empty = (data[0][0], torch.full_like(data[0][1], -100))
    torch.manual_seed(0)
    learn = Learner(nn.Linear(3, CLASSES).double(), {"train": [empty, *data]}, token_loss)
    learn.add_cb([AccumulateCallback(3), LossWeightCallback(ignore_index=-100)])
    found = learn.lr_find(start=1e-6, end=1e-3, n=4, plot=False)
    expected = token_loss(learn.model(torch.cat([x for x, _ in data[:2]])), torch.cat([y for _, y in data[:2]]))
    assert found.losses[0] == pytest.approx(expected.item(), rel=1e-12)
