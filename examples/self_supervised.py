"""Self-supervised learning: two views of a digit belong together, and no label is looked at.

Start it by `python examples/self_supervised.py`; it needs `pip install scikit-learn`.

Source: Chen et al. (2020), "A simple framework for contrastive learning of visual representations".
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from callbacks import BatchTransformCallback, MetricsCallback, ProgressCallback
from learner import Learner, Loaders


def views(batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two views of each image, moved by a pixel and noisy, side by side: (N, 2, 1, 8, 8)."""
    images, labels = batch
    moves = torch.randint(-1, 2, (2, len(images), 2), generator=generator).tolist()
    rolled = [[image.roll(move, (1, 2)) for image, move in zip(images, each, strict=True)] for each in moves]
    both = torch.stack(list(map(torch.stack, rolled)), dim=1)
    return both + 0.1 * torch.randn(both.shape, generator=generator), labels


class Embedder(nn.Module):
    """Return a direction in 32 dimensions for each view; shapes: (N, 2, 1, 8, 8) to (N, 2, 32)."""

    def __init__(self):
        super().__init__()
        convs = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)
        self.body = nn.Sequential(*[f for conv in convs for f in (conv, nn.ReLU())], nn.Flatten(), nn.Linear(256, 32))

    def forward(self, views):
        return normalize(self.body(views.flatten(0, 1)), dim=1).unflatten(0, views.shape[:2])


def contrastive(found: Tensor, labels: Tensor) -> Tensor:
    """Return how hard it is to tell the other view of an image from those of all other images; asks no label."""
    first, second = found.unbind(1)
    likeness, own = first @ second.T / 0.2, torch.arange(len(found))
    return (cross_entropy(likeness, own) + cross_entropy(likeness.T, own)) / 2


def found_again(found: Tensor, labels: Tensor) -> Tensor:
    """Return the share of images whose other view is the nearest one."""
    first, second = found.unbind(1)
    return ((first @ second.T).argmax(1) == torch.arange(len(found))).float().mean()


def same_digit(found: Tensor, labels: Tensor) -> Tensor:
    """Return the share of views whose nearest view of another image shows the same digit."""
    first, second = found.unbind(1)
    nearest = (first @ second.T).fill_diagonal_(-1).argmax(1)
    return (labels[nearest] == labels).float().mean()


def make_learner(cbs=()) -> Learner:
    """Return a learner of 8 x 8 digits; always the same one."""
    torch.manual_seed(0)
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    x = images.float().reshape(-1, 1, 8, 8) / 16
    dls = Loaders.from_arrays(train=(x[:1400], labels[:1400]), valid=(x[1400:], labels[1400:]), batch_size=200)
    cbs = [BatchTransformCallback(views, on=("train", "valid")), MetricsCallback(found_again, same_digit), *cbs]
    return Learner(Embedder(), dls, contrastive, lr=3e-3, opt_func=torch.optim.Adam, cbs=cbs)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    before = learn.validate()
    learn.fit(12)
    found, labels = learn.get_preds()
    x, y = TSNE(random_state=0).fit_transform(found[:, 0]).T
    plt.colorbar(plt.scatter(x, y, s=12, c=labels, cmap="tab10"), label="digit")
    plt.title(f"same digit nearest: {before['same_digit']:.0%} before, {learn.metrics['valid']['same_digit']:.0%} now")
    plt.show()
