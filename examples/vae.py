"""A variational autoencoder of digits: a model that makes its loss itself, and draws what it has never seen.

Start it by `python examples/vae.py`; it needs `pip install scikit-learn`.

Source: Kingma & Welling (2014), "Auto-encoding variational Bayes", with pixels as probabilities.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from callbacks import ProgressCallback
from learner import Callback, Learner, Loaders

N_CODE = 8  # numbers that an image is made of


class VAE(nn.Module):
    """Code an image as a normal distribution, and decode a number drawn from it; shapes: images (N, 64), [0-1]."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * N_CODE))
        self.decoder = nn.Sequential(nn.Linear(N_CODE, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, image):
        mean, log_variance = self.encoder(image).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        logits = self.decoder(code)
        reconstruction = binary_cross_entropy_with_logits(logits, image, reduction="none").sum(dim=1).mean()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        return {"loss": reconstruction + divergence, "logits": logits, "divergence": divergence}


class LogCallback(Callback):
    """Log the part of the loss that keeps the codes near a normal distribution."""

    def after_loss(self, learn):
        learn.log(divergence=learn.output["divergence"].detach())


def make_learner(cbs=()) -> Learner:
    """Return a learner of 8 x 8 digits; always the same one."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    dls = Loaders.from_arrays(train=images[:1400], valid=images[1400:], batch_size=64)
    return Learner(VAE(), dls, lr=3e-3, opt_func=torch.optim.Adam, cbs=[LogCallback(), *cbs])


def draw(images: Tensor) -> str:
    """Return images side by side, in characters."""
    shades = (images.clamp(0, 0.99) * 8).long().reshape(-1, 8, 8)
    lines = [["".join(2 * " .:-=+*#"[i] for i in row) for row in rows] for rows in shades.transpose(0, 1)]
    return "\n".join("  ".join(line) for line in lines)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(25)
    encoder, decoder = learn.model.children()
    with torch.no_grad():
        print(draw(decoder(torch.randn(7, N_CODE)).sigmoid()))
        a, b = encoder(learn.dls.valid.dataset[[0, 5]])[:, :N_CODE]
        between = torch.stack([a.lerp(b, share / 6) for share in range(7)])
        print("from one digit to another:", draw(decoder(between).sigmoid()), sep="\n")
