"""A diffusion model of digits: learn to take noise off images, then begin with noise alone.

Start it by `python examples/diffusion.py`; it needs `pip install scikit-learn`.

Source: Ho et al. (2020), "Denoising diffusion probabilistic models", algorithms 1 and 2.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad, silu

from callbacks import EMACallback, ProgressCallback, SchedulerCallback, warmup_cosine
from learner import Callback, Learner, Loaders

N_STEPS = 50  # from an image to noise
BETA = torch.linspace(1e-3, 0.2, N_STEPS)  # variance of the noise that a step adds
KEPT = (1 - BETA).cumprod(dim=0)  # share of the variance that is still the image's


class Denoiser(nn.Module):
    """Tell the noise in an image from the image; shapes: images (N, 64) and steps (N,) to noise (N, 64)."""

    def __init__(self, width=192):
        super().__init__()
        self.step = nn.Embedding(N_STEPS, width)
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(4))

    def forward(self, image, step):
        hidden = self.enter(image) + self.step(step)
        for block in self.blocks:
            hidden = hidden + silu(block(hidden))
        return self.leave(hidden)


class DiffusionCallback(Callback):
    """Have each image noisy, by a step drawn for it, and the noise as the target."""

    def before_batch(self, learn):
        image = learn.batch
        step, noise = torch.randint(N_STEPS, (len(image),)), torch.randn_like(image)
        kept = KEPT[step, None]
        learn.batch = kept.sqrt() * image + (1 - kept).sqrt() * noise, step, noise


def make_learner(cbs=()) -> Learner:
    """Return a learner of 8 x 8 digits; always the same one."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # grey, [-1, 1]
    dls = Loaders.from_arrays(train=images, batch_size=128)
    cbs = [DiffusionCallback(), SchedulerCallback(warmup_cosine()), EMACallback(0.995), *cbs]
    return Learner(Denoiser(), dls, mse_loss, lr=4e-3, opt_func=torch.optim.Adam, cbs=cbs)


@torch.no_grad()
def sample(model: nn.Module, n: int) -> list[Tensor]:
    """Return images that a model makes of noise, at each step the last one first."""
    images = [torch.randn(n, 64)]
    for step in reversed(range(N_STEPS)):
        noise = model(images[-1], torch.full((n,), step))
        mean = (images[-1] - BETA[step] / (1 - KEPT[step]).sqrt() * noise) / (1 - BETA[step]).sqrt()
        images.append(mean + (BETA[step].sqrt() * torch.randn(n, 64) if step else 0))
    return images


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(40)
    images = sample(learn.model, 6)
    steps = torch.stack([images[i] for i in (0, 25, 35, 40, 43, 46, 48, 50)])
    tiles = pad(steps.view(8, -1, 8, 8), (1, 1, 1, 1), value=-1)  # a row for each digit
    plt.imshow(tiles.permute(1, 2, 0, 3).flatten(2).flatten(0, 1).numpy(), cmap="gray", vmin=-1, vmax=1)
    plt.title("noise becomes a digit")
    plt.axis("off")
    plt.show()
