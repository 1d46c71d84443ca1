"""Detection: what is in a picture, and where: two heads, two losses. Start it by `python examples/detection.py`."""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from callbacks import MetricsCallback, ProgressCallback
from learner import Learner, Loaders, Predictor

SIZE, KINDS = 24, ("square", "disc", "cross")
Both = tuple[Tensor, Tensor]  # logits or ids of kinds, and boxes


def scenes(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures with a thing in each, which kind it is of, and its box: left, top, right, bottom [0-1]."""
    kind, radius = torch.arange(n) % 3, torch.randint(4, 8, (n,))
    x, y = (radius + (torch.rand(n) * (SIZE - 2 * radius)).long() for _ in range(2))
    down, across = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    dy, dx, r = (down - y[:, None, None]).abs(), (across - x[:, None, None]).abs(), radius[:, None, None]
    square = (dx < r) & (dy < r)
    each = torch.stack([square, dx**2 + dy**2 < r**2, square & ((dx < 2) | (dy < 2))], dim=1)
    image = each[torch.arange(n), kind] + 0.15 * torch.randn(n, SIZE, SIZE)
    return image[:, None], kind, torch.stack([x - radius + 1, y - radius + 1, x + radius, y + radius], dim=1) / SIZE


class Detector(nn.Module):
    """Say what is in a picture and where; shapes: (N, 1, 24, 24) to logits (N, 3) and boxes (N, 4)."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1) for n_in, n_out in ((1, 16), (16, 32), (32, 64))]
        self.body = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())], nn.Flatten())
        self.kind, self.box = nn.Linear(576, len(KINDS)), nn.Linear(576, 4)

    def forward(self, image):
        features = self.body(image)
        return self.kind(features), self.box(features).sigmoid()


def both_losses(preds: Both, target: Both) -> Tensor:
    """Return how wrong the kinds are and how far off the boxes."""
    return cross_entropy(preds[0], target[0]) + 50 * smooth_l1_loss(preds[1], target[1])


def overlap(preds: Both, target: Both) -> Tensor:
    """Return the intersection of two boxes over their union, on average."""
    a, b = preds[1], target[1]
    common = (torch.minimum(a, b)[:, 2:] - torch.maximum(a, b)[:, :2]).clamp(min=0).prod(dim=1)
    whole = sum((box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1) for box in (a, b)) - common
    return (common / whole).mean()


def make_learner(cbs=()) -> Learner:
    """Return a learner of pictures that are made; always the same one."""
    torch.manual_seed(0)
    dls, model = Loaders.from_arrays(train=scenes(1200), valid=scenes(300), batch_size=50), Detector()
    right = lambda preds, target: (preds[0].argmax(dim=1) == target[0]).float().mean()  # noqa: E731
    cbs = [MetricsCallback(overlap, right=right), *cbs]
    return Learner(model, dls, both_losses, 3e-3, torch.optim.Adam, cbs, predictor=Predictor(model, n_inp=1))


def draw(image: Tensor, box: Tensor) -> None:
    """Draw a picture, and a box around what was found."""
    left, top, right, bottom = (SIZE * box - 0.5).tolist()
    plt.imshow(image[0].numpy(), cmap="gray")
    plt.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="C1", linewidth=2)
    plt.axis("off")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(15)
    images = learn.dls.valid.dataset.tensors[0][:12]
    kinds, boxes = learn.infer(images).preds
    for i in range(12):
        plt.subplot(3, 4, i + 1, title=KINDS[kinds[i].argmax()])
        draw(images[i], boxes[i])
    plt.show()
