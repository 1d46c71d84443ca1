"""Several optimizers: a GAN on digits, by one callback that owns the actions in which it is not one model, one loss."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import softplus

from callbacks import LambdaCallback
from learner import Callback, Learner, Loaders

N_NOISE = 16
DIGITS = load_digits()


class GAN(nn.Module):
    """Both players; an image is 64 numbers in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(N_NOISE, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))


class GANCallback(Callback):
    """Train a generator against a discriminator, each with an optimizer of its own.

    Reads: model, xb.
    Writes: preds (the generated images), loss (the sum of both); logs `d_loss` and `g_loss`.

    Source: Goodfellow et al. 2014, Generative Adversarial Nets, the generator's loss that does not saturate.
    """

    def __init__(self, model, d_lr=1e-3, g_lr=5e-4):
        self.d_opt = torch.optim.Adam(model.discriminator.parameters(), lr=d_lr, betas=(0.5, 0.99))
        self.g_opt = torch.optim.Adam(model.generator.parameters(), lr=g_lr, betas=(0.5, 0.99))

    def predict(self, learn):
        learn.preds = learn.model.generator(torch.randn(len(learn.xb), N_NOISE))

    def get_loss(self, learn):
        judge = learn.model.discriminator
        self.d_loss = softplus(-judge(learn.xb)).mean() + softplus(judge(learn.preds.detach())).mean()
        self.g_loss = softplus(-judge(learn.preds)).mean()
        learn.loss = self.d_loss + self.g_loss
        learn.log(d_loss=self.d_loss, g_loss=self.g_loss)

    def backward(self, learn):
        self.d_loss.backward()  # reaches the discriminator alone: the generated images are detached in it
        self.g_loss.backward(inputs=list(learn.model.generator.parameters()))

    def step(self, learn):
        self.d_opt.step()
        self.g_opt.step()

    def cleanup_batch(self, learn):
        self.d_loss = self.g_loss = None  # lets go of the graph


@pytest.fixture(scope="module")
def images():
    return torch.tensor(DIGITS.data, dtype=torch.float32) / 8 - 1


@pytest.fixture
def make_gan(images):
    def make(*cbs, n=None, **rates):
        torch.manual_seed(0)
        model = GAN()
        dls = Loaders.from_arrays(train=images[:n], valid=images[-200:], batch_size=128)
        return Learner(model, dls, cbs=[GANCallback(model, **rates), *cbs])

    return make


def generated(learn, n=500):
    with torch.no_grad():
        return learn.model.generator(torch.randn(n, N_NOISE, generator=torch.Generator().manual_seed(1)))


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_a_gan_learns_to_draw_digits(make_gan, images):
    learn = make_gan()
    before = generated(learn)
    learn.fit(40)
    after = generated(learn)
    assert (after.mean(0) - images.mean(0)).norm() < (before.mean(0) - images.mean(0)).norm() / 4
    assert (after.std(0) - images.std(0)).norm() < (before.std(0) - images.std(0)).norm() / 3
    seen_as = KNeighborsClassifier(5).fit(images, DIGITS.target).predict(after)
    counts = torch.bincount(torch.tensor(seen_as), minlength=10)
    assert counts.min() >= 5  # of 500; it does not draw one and the same digit
    assert counts.max() <= 150


def test_both_losses_are_on_record_for_both_loaders(make_gan):
    learn = make_gan()
    learn.fit(3)
    for row in learn.history.to_dict()["train/loss"], learn.history.to_dict()["valid/g_loss"]:
        assert len(row) == 3
    for name in ("train", "valid"):
        losses = learn.metrics[name]
        assert losses["loss"] == pytest.approx(losses["d_loss"] + losses["g_loss"])
    assert learn.n_steps == 3 * 15
    assert learn.n_samples == 3 * 1797


def test_it_equals_a_loop_by_hand(make_gan):
    """One batch at a time in one order, so that the noise is the same."""
    learn = make_gan(n=128)
    learn.dls = {"train": [learn.dls.train.dataset.tensors[0][i : i + 50] for i in (0, 50, 100)]}
    by_hand = copy.deepcopy(learn.model)
    opts = GANCallback(by_hand)
    torch.manual_seed(3)
    for x in list(learn.dls["train"]) * 2:
        fake = by_hand.generator(torch.randn(len(x), N_NOISE))
        d_loss = softplus(-by_hand.discriminator(x)).mean() + softplus(by_hand.discriminator(fake.detach())).mean()
        g_loss = softplus(-by_hand.discriminator(fake)).mean()
        g_grads = torch.autograd.grad(g_loss, list(by_hand.generator.parameters()))
        for p, grad in zip(by_hand.generator.parameters(), g_grads, strict=True):
            p.grad = grad
        opts.d_opt.zero_grad()
        d_loss.backward()
        opts.d_opt.step()
        opts.g_opt.step()
    torch.manual_seed(3)
    learn.fit(2)
    assert torch.equal(weights(learn.model), weights(by_hand))


@pytest.mark.parametrize(
    ("rate", "still", "moving"), [("d_lr", "discriminator", "generator"), ("g_lr", "generator", "discriminator")]
)
def test_each_optimizer_changes_its_own_player_alone(make_gan, rate, still, moving):
    learn = make_gan(n=256, **{rate: 0.0})
    before = copy.deepcopy(learn.model)
    learn.fit(1)
    assert torch.equal(weights(getattr(learn.model, still)), weights(getattr(before, still)))
    assert not torch.equal(weights(getattr(learn.model, moving)), weights(getattr(before, moving)))


def test_no_gradient_of_one_batch_meets_the_next(make_gan):
    seen = []

    def look(learn):
        seen.extend(p.grad is None for p in learn.model.parameters())

    make_gan(LambdaCallback(before_batch=look, after_fit=look), n=256).fit(2)
    assert seen
    assert all(seen)


def test_validating_changes_neither_player_nor_what_is_drawn_next(make_gan):
    learn = make_gan(n=256)
    learn.fit(1)
    before, rng = weights(learn.model), torch.get_rng_state()
    assert set(learn.validate()) == {"loss", "d_loss", "g_loss"}
    assert torch.equal(weights(learn.model), before)
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_sandbox_puts_both_optimizers_back(make_gan):
    """What comes after a fit in a sandbox is as if there had been none, moments of both optimizers included."""
    one, two = make_gan(n=256), make_gan(n=256)
    for learn in (one, two):
        torch.manual_seed(0)
        learn.fit(1)
    with two.sandbox():
        two.fit(2)
    for learn in (one, two):
        torch.manual_seed(0)
        learn.fit(1)
    assert torch.equal(weights(one.model), weights(two.model))
