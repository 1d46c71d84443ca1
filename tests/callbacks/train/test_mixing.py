"""Mixtures of two samples: against a loop by hand with soft labels, against pixels that are counted, by position."""

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from callbacks import (
    AccumulateCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    CutMix,
    LambdaCallback,
    LossWeightCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    MixUp,
    SAMCallback,
    accuracy,
)
from learner import Callback, Learner, LearnerError, Loaders, Predictor
from tests.positions import assert_by_position

N = 4
ROWS = [(torch.eye(N), torch.tensor([0, 1, 2, 1])) for _ in range(5)]  # what a mixture is made of can be read off it
PICTURES = [(torch.arange(1.0, N + 1).view(N, 1, 1, 1).expand(N, 1, 8, 6).clone(), y) for _, y in ROWS]


class Seen(Callback):
    """Keep what others see of each batch."""

    def __init__(self):
        self.batches, self.targets, self.is_mixed = [], [], []

    def after_loss(self, learn):
        self.batches.append(learn.batch)
        self.targets.append(learn.yb)
        self.is_mixed.append((learn.dl_name, learn.is_mixed))


def linear():
    torch.manual_seed(0)
    return nn.Linear(N, 3)


def mixing(cbs, data=ROWS, model=None, loss_f=cross_entropy, **options):
    return Learner(model or linear(), {"train": data}, loss_f, 0.1, cbs=cbs, **options)


def shares_of(mixed_rows):
    """Return the share of the first sample, and the numbers of the partners, of mixtures of rows of `torch.eye`."""
    share = mixed_rows.diagonal()
    partners = (mixed_rows - share.diag()).argmax(dim=1)
    return share, torch.where(share == 1, torch.arange(N), partners)


def soft(y, mixed_rows):
    """Return the targets of mixtures as probabilities."""
    return mixed_rows @ one_hot(y, 3).float()


# -- against references --------------------------------------------------------------------------------------------


def test_it_is_training_with_soft_labels_as_in_a_loop_by_hand():
    seen = Seen()
    learn = mixing([MixUp(1.0), seen])
    learn.fit(2)
    model = linear()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    for (x, _), (_, y) in zip(seen.batches, ROWS * 2, strict=True):
        cross_entropy(model(x), soft(y, x)).backward()
        opt.step(), opt.zero_grad()
    torch.testing.assert_close(learn.model.weight, model.weight, rtol=0, atol=1e-6)  # float32, ten steps
    assert all(dl == "train" and is_mixed for dl, is_mixed in seen.is_mixed)


def test_a_mixture_has_one_share_for_the_batch_the_larger_one_and_partners_that_are_a_permutation():
    seen = Seen()
    mixing([MixUp(1.0), seen]).fit(2)
    for x, _ in seen.batches:
        share, partners = shares_of(x)
        assert partners.sort().values.tolist() == [0, 1, 2, 3]
        assert len(set(share[share < 1].tolist())) <= 1
        assert share.min() >= 0.5
        torch.testing.assert_close(x.sum(dim=1), torch.ones(N))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_those_of_the_beta_distribution(alpha):
    seen = Seen()
    row = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    learn = Learner(nn.Linear(2, 2), {"train": [row] * 600}, cross_entropy, 0.0, cbs=[MixUp(alpha), seen])
    learn.fit(1)
    shares = [x[0, 0].item() for x, _ in seen.batches if x[0, 0] < 1]
    larger = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda share: 2 * larger.cdf(share) - 1).pvalue > 0.001


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6])
def test_extremes_of_alpha_are_numbers(alpha):
    seen = Seen()
    mixing([MixUp(alpha), seen]).fit(3)
    shares = torch.cat([x.diagonal() for x, _ in seen.batches])  # 1 for a sample that is its own partner
    assert shares.max() == 1
    assert (shares[shares < 1] - 0.5).abs().max() < 0.01 if alpha > 1 else shares.min() > 0.99


def test_a_box_of_another_picture_lies_anywhere_and_its_area_weighs_the_loss():
    seen, losses = Seen(), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    look = LambdaCallback(after_loss=lambda learn: losses.append((learn.preds.detach(), learn.loss.item())))
    mixing([CutMix(1.0), seen, look], PICTURES, model).fit(20)
    boxes, corners = [], set()
    for (x, y), (preds, loss) in zip(seen.batches, losses, strict=True):
        own = torch.arange(1.0, N + 1).view(N, 1, 1, 1)
        is_cut = (x != own)[:, 0]
        with_another = [i for i in range(N) if is_cut[i].any()]
        partners = torch.arange(N)
        for i in with_another:
            assert torch.equal(is_cut[i], is_cut[with_another[0]])  # one box for the batch
            (other,) = set(x[i, 0][is_cut[i]].tolist())
            partners[i] = int(other) - 1
        if not with_another:
            continue
        box = is_cut[with_another[0]]
        rows, columns = box.any(dim=1).nonzero()[:, 0], box.any(dim=0).nonzero()[:, 0]
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        share = 1 - box.float().mean().item()
        by_hand = share * cross_entropy(preds, y) + (1 - share) * cross_entropy(preds, y[partners])
        assert loss == pytest.approx(by_hand.item(), abs=1e-5)  # float32
        boxes.append(share)
        corners |= {name for name, hits in (("top", 0 in rows), ("left", 0 in columns), ("bottom", 7 in rows)) if hits}
        corners |= {"within"} if not corners & {"top"} or rows[0] > 0 else set()
    assert corners == {"top", "left", "bottom", "within"}
    assert min(boxes) < 0.4
    assert max(boxes) > 0.9


def test_boxes_are_as_large_as_calculated_for_a_uniform_share():
    seen = Seen()
    x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    mixing([CutMix(1.0), seen], [(x, torch.tensor([0, 1]))] * 400, model).fit(1)
    boxes = [x[0, 0] == 2 for x, _ in seen.batches]
    sides = torch.tensor([(box.any(dim=1).sum(), box.any(dim=0).sum()) for box in boxes if box.any()]) / 64
    # A side is s = √(1 - λ), of density 2s; of it s² / 4 is cut off on average. So the mean of a side is 2/3 - 1/8, and
    # that of the area is the one of (s - s² / 4)², with E[sⁿ] = 2 / (n + 2). 400 boxes are within 0.05.
    assert (sides.mean(dim=0) - (2 / 3 - 1 / 8)).abs().max() < 0.05
    assert abs(sides.prod(dim=1).mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.05


# -- what it goes with ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: MixUp(0.4), lambda: CutMix(1.0)], ids=["MixUp", "CutMix"])
def test_a_fit_that_was_stopped_goes_on_with_the_same_mixtures_whatever_workers_and_validation(make, tmp_path):
    assert_by_position(lambda: [make()], tmp_path)


def test_metrics_keep_whole_labels_and_other_passes_are_not_mixed():
    seen, labels = Seen(), []

    def metric(preds, yb):
        labels.append(yb)
        return accuracy(preds, yb)

    learn = Learner(
        linear(),
        {"train": ROWS, "valid": ROWS},
        cross_entropy,
        cbs=[MixUp(1.0), seen, MetricsCallback(accuracy=metric)],
    )
    learn.fit(1)
    assert all(torch.equal(y, ROWS[0][1]) for y in [*labels, *seen.targets])
    assert seen.is_mixed == [("train", True)] * 5 + [("valid", False)] * 5
    learn.validate("train")
    assert seen.is_mixed[-1] == ("train", False)
    assert torch.equal(seen.batches[-1][0], torch.eye(N))
    assert not learn.is_mixed


def test_a_validation_between_the_mixture_and_its_loss_changes_nothing():
    weights = []
    for cbs in ([], [LambdaCallback(after_predict=lambda learn: learn.training and learn.validate())]):
        learn = Learner(linear(), {"train": ROWS, "valid": ROWS}, cross_entropy, cbs=[MixUp(1.0), *cbs])
        learn.fit(2)
        weights.append(learn.model.weight)
    assert torch.equal(*weights)


def test_any_loss_and_any_target_do():
    def loss_f(preds, yb):
        return mse_loss(preds, yb["rows"]) + cross_entropy(preds, yb["labels"][0])

    seen = Seen()
    data = [(x, {"rows": x[:, :3].clone(), "labels": (y,)}) for x, y in ROWS]
    learn = mixing([MixUp(1.0), seen], data[:1], loss_f=loss_f)
    learn.fit(1)
    x, y = seen.batches[0]
    share, partners = shares_of(x)
    preds = linear()(x)
    other = {"rows": y["rows"][partners], "labels": (y["labels"][0][partners],)}
    by_hand = torch.lerp(loss_f(preds, other), loss_f(preds, y), share.min())
    assert learn.history[-1]["train/loss"] == pytest.approx(by_hand.item(), abs=1e-6)


def test_several_inputs_and_mappings_are_mixed_part_by_part():
    class Two(nn.Linear):
        def forward(self, a, b):
            return super().forward(a + b)

    for data in (
        [(x, 2 * x, y) for x, y in ROWS],
        [{"b": 2 * x, "label": y, "a": x, "example_id": torch.arange(N)} for x, y in ROWS],
    ):
        seen = Seen()
        mixing([MixUp(1.0), seen], data, Two(N, 3)).fit(1)
        for batch in seen.batches:
            a, b = (batch["a"], batch["b"]) if isinstance(batch, dict) else batch[:2]
            assert type(batch) is type(data[0])
            torch.testing.assert_close(b, 2 * a)
        assert shares_of(a)[0].min() < 1  # in the last batch
        if isinstance(data[0], dict):
            assert all(torch.equal(batch["example_id"], torch.arange(N)) for batch in seen.batches)


def test_an_input_that_is_its_own_target_stays_whole_as_target():
    seen = Seen()
    mixing([MixUp(1.0), seen], [(x, x) for x, _ in ROWS], nn.Linear(N, N), mse_loss).fit(1)
    assert all(torch.equal(y, torch.eye(N)) for _, y in seen.batches)
    assert any(not torch.equal(x, torch.eye(N)) for x, _ in seen.batches)


def test_one_after_the_other_they_mix_up_to_four_samples():
    seen = Seen()
    learn = mixing([MixUp(1.0), MixUp(1.0, seed=1), seen], ROWS[:1])
    learn.fit(1)
    (x, y), model = seen.batches[0], linear()
    assert (x > 0).sum(dim=1).max() > 2
    assert learn.history[-1]["train/loss"] == pytest.approx(cross_entropy(model(x), soft(y, x)).item(), abs=1e-6)


def test_weights_accumulation_half_precision_and_a_second_gradient_see_the_mixed_loss():
    data = [(x[:n], y[:n]) for (x, y), n in zip(ROWS, (4, 3, 4, 2, 4), strict=True)]
    for others in (
        [AccumulateCallback(2), LossWeightCallback(weight_of=lambda learn: (learn.yb < 2).sum())],
        [MixedPrecisionCallback("bf16")],
        [MixedPrecisionCallback("fp16", init_scale=2.0), AccumulateCallback(2)],
        [SAMCallback(0.05)],
    ):
        seen, losses = Seen(), []
        look = LambdaCallback(after_loss=lambda learn, into=losses: into.append((learn.preds, learn.loss)))
        mixing([*others, MixUp(1.0), seen, look], data).fit(1)
        for (x, y), (preds, loss) in zip(seen.batches, losses, strict=True):
            by_hand = cross_entropy(preds, x[:, : len(y)] @ one_hot(y, 3).float())
            assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_what_the_loss_logs_is_of_the_whole_labels_and_counted_once():
    logged = []

    class Logs(Learner):
        def get_loss(self):
            super().get_loss()
            self.weight = len(self.yb)
            logged.append(self.loss.item())
            self.log(own=self.loss)

    learn = Logs(linear(), {"train": ROWS[:1]}, cross_entropy, cbs=MixUp(1.0))
    learn.fit(1)
    assert len(logged) == 2
    assert learn.history[-1]["train/own"] == pytest.approx(logged[0])


# -- what it does not go with --------------------------------------------------------------------------------------


def test_mixtures_are_not_recorded_as_samples():
    x, y = torch.randn(8, N), torch.arange(8) % 3
    dls = Loaders.from_arrays(train=(x, y), valid=(x, y), batch_size=4)

    def learner(**options):
        return Learner(linear(), dls, cross_entropy, cbs=[MixUp(1.0), CollectCallback(collector(), **options)])

    def collector():
        return ClassificationMetricsCollector()

    learn = learner()
    before = learn.model.weight.clone()
    with pytest.raises(
        LearnerError, match="got mixtures of two in loader 'train'; collect them as they are by `source"
    ):
        learn.fit(1)
    assert torch.equal(learn.model.weight, before)
    learner(source="pass").fit(1), learner(on=("valid",)).fit(1)


class OwnLoss(nn.Linear):
    def forward(self, x, labels=None):
        preds = super().forward(x)
        return {"logits": preds, "loss": None if labels is None else cross_entropy(preds, labels)}


def test_a_model_that_makes_its_own_loss_is_refused_before_the_first_batch():
    data = [{"x": x, "labels": y} for x, y in ROWS]
    with pytest.raises(LearnerError, match="`loss_f` must be given for MixUp to take it for both targets"):
        mixing(MixUp(1.0), data, OwnLoss(N, 3), None).fit(1)


Y = ROWS[0][1]


@pytest.mark.parametrize(
    ("cb", "batch", "message"),
    [
        (
            MixUp(1.0),
            (torch.ones(N, 4, dtype=torch.uint8), Y),
            "inputs must be of floating point .* got Tensor.4, 4. uint8",
        ),
        (MixUp(1.0), {"x": torch.ones(N, dtype=torch.int64), "y": Y}, "inputs must be of floating point .* at 'x'"),
        (
            MixUp(1.0),
            {"x": [torch.ones(2), torch.ones(3), *[torch.ones(1)] * 2], "y": Y},
            "must be tensors with all .* 'x'",
        ),
        (MixUp(1.0), (torch.ones(N, 4), None), "target"),
        (MixUp(1.0), (torch.ones(N, 4), ["a", "b", "c", "d"]), "targets must be tensors with all samples .* got"),
        (MixUp(1.0), (torch.ones(N, 4), [{"boxes": torch.ones(k, 4)} for k in range(4)]), "targets must be tensors"),
        (CutMix(1.0), (torch.ones(N, 4), Y), "inputs must be pictures, .*, got Tensor.4, 4."),
        (
            CutMix(1.0),
            (torch.ones(N, 3, 4, 4), torch.ones(N, 3, 4, 5), Y),
            r"one height and width .* \[\(4, 4\), \(4, 5\)\]",
        ),
    ],
)
def test_what_cannot_be_mixed_is_one_error_in_the_first_batch(cb, batch, message):
    class Takes(nn.Linear):
        def forward(self, x, z=None):
            return super().forward(x.float())

    with pytest.raises(LearnerError, match=message):
        mixing(cb, [batch], Takes(N, 3)).fit(1)


def test_inputs_that_the_predictor_makes_are_refused():
    model = linear()
    predictor = Predictor(model, preprocess_fn=lambda batch: batch[0] * 2)
    with pytest.raises(LearnerError, match="of which the predictor makes others"):
        mixing(MixUp(1.0), model=model, predictor=predictor).fit(1)


@pytest.mark.parametrize("cls", [MixUp, CutMix])
@pytest.mark.parametrize(
    ("alpha", "error"),
    [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)],
)
def test_alpha(cls, alpha, error):
    with pytest.raises(error, match="`alpha` must be a"):
        cls(alpha)
