"""A variational autoencoder of digits: a model that makes its loss itself, and draws what it has never seen.

Start it by `python examples/vae.py`; it needs `pip install scikit-learn`.

Source: Kingma & Welling (2014), "Auto-encoding variational Bayes", with pixels as probabilities.
"""

from itertools import pairwise

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

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


def draw(images: Tensor, n_rows: int) -> None:
    """Draw images in rows, a pixel of ground around each."""
    tiles = pad(images.view(n_rows, -1, 8, 8), (1, 1, 1, 1), value=0)
    plt.imshow(tiles.transpose(1, 2).flatten(2).flatten(0, 1).numpy(), cmap="gray")
    plt.axis("off")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(25)
    encoder, decoder = learn.model.children()
    with torch.no_grad():
        plt.subplot(1, 2, 1, title="digits that were never seen")
        draw(decoder(torch.randn(36, N_CODE)).sigmoid(), n_rows=6)
        codes = encoder(learn.dls.valid.dataset[:7])[:, :N_CODE]
        between = [a.lerp(b, share / 5) for a, b in pairwise(codes) for share in range(6)]
        plt.subplot(1, 2, 2, title="from one digit to another")
        draw(decoder(torch.stack(between)).sigmoid(), n_rows=6)
    plt.show()
