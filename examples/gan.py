"""A GAN that draws digits: two models and two optimizers in one learner.

Start it by `python examples/gan.py`; it needs `pip install scikit-learn`.

Source: Goodfellow et al. (2014), "Generative adversarial nets", with the generator's loss that does not saturate.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import pad, softplus
from torch.optim import Adam

from callbacks import ProgressCallback
from learner import Callback, Learner, Loaders
from learner.optim import Optimizers

N_NOISE = 16  # numbers that an image is made of


class GANCallback(Callback):
    """Train the critic to tell images from generated ones, then the generator to deceive it."""

    def predict(self, learn):
        learn.preds = learn.model["generator"](torch.randn(len(learn.xb), N_NOISE, device=learn.xb.device))

    def get_loss(self, learn):
        critic = learn.model["critic"]
        learn.loss = softplus(-critic(learn.xb)).mean() + softplus(critic(learn.preds.detach())).mean()

    def step(self, learn):
        learn.opt["critic"].step()
        loss = softplus(-learn.model["critic"](learn.preds)).mean()
        loss.backward()  # reaches the critic as well, whose gradients are cleared next
        learn.opt["generator"].step()
        learn.log(generator=loss)


def make_learner(cbs=()) -> Learner:
    """Return a learner of 8 x 8 digits; always the same one."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # grey, [-1, 1]
    model = nn.ModuleDict(
        {
            "critic": nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)),
            "generator": nn.Sequential(nn.Linear(N_NOISE, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.Tanh()),
        }
    )

    def adams(params, lr):
        return Optimizers(
            critic=Adam(model["critic"].parameters(), lr=2 * lr, betas=(0.5, 0.99)),
            generator=Adam(model["generator"].parameters(), lr=lr, betas=(0.5, 0.99)),
        )

    dls = Loaders.from_arrays(train=images, batch_size=128)
    return Learner(model, dls, lr=5e-4, opt_func=adams, cbs=[GANCallback(), *cbs])


def draw(images: Tensor, n_rows: int) -> None:
    """Draw images in rows, a pixel of ground around each."""
    tiles = pad(images.view(n_rows, -1, 8, 8), (1, 1, 1, 1), value=-1)
    plt.imshow(tiles.transpose(1, 2).flatten(2).flatten(0, 1).numpy(), cmap="gray")
    plt.axis("off")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(30)
    with torch.no_grad():
        draw(learn.model["generator"](torch.randn(48, N_NOISE)), n_rows=6)
    plt.show()
