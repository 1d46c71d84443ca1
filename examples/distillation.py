"""Distillation: a small network learns from what a large one says of the digits, better than from their labels alone.

Start it by `python examples/distillation.py`; it needs `pip install scikit-learn`.

Source: Hinton et al. (2015), "Distilling the knowledge in a neural network".
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from callbacks import MetricsCallback, ProgressCallback, mean_over_samples
from learner import Learner, Loaders, Predictor

TEMPERATURE, N_LABELLED = 4.0, 100


def soft_and_hard(preds: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far predictions are from the teacher's, and for samples with a label from that."""
    label, taught = target
    soft = kl_div((preds / TEMPERATURE).log_softmax(1), (taught / TEMPERATURE).softmax(1), reduction="batchmean")
    hard = cross_entropy(preds, label, ignore_index=-100, reduction="sum") / len(preds)
    return TEMPERATURE**2 * soft + hard


@mean_over_samples
def accuracy(preds, target):
    """Return the share of labels that are predicted."""
    return (preds.argmax(1) == target[0]).float().mean()


def digits() -> tuple[Tensor, Tensor]:
    """Return 8 x 8 images as rows, and which digit each shows."""
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    return images.float() / 16, labels


def train_teacher() -> nn.Module:
    """Return a large network that was trained on 1200 labels; always the same one."""
    torch.manual_seed(0)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
    dls = Loaders.from_arrays(train=(x[:1200], y[:1200]), batch_size=64)
    Learner(model, dls, cross_entropy, lr=3e-3, opt_func=torch.optim.Adam).fit(8)
    return model.eval()


def make_learner(cbs=(), teacher: nn.Module | None = None) -> Learner:
    """Return a learner of a small network; it knows few labels, and of all images what the teacher says of them."""
    torch.manual_seed(0)
    x, y = digits()
    with torch.no_grad():
        taught = torch.zeros(len(x), 10) if teacher is None else teacher(x)
    known = y.clone()
    known[N_LABELLED:1200] = -100
    train = slice(N_LABELLED if teacher is None else 1200)  # without a teacher the others say nothing
    dls = Loaders.from_arrays(
        train=(x[train], known[train], taught[train]), valid=(x[1200:], y[1200:], taught[1200:]), batch_size=50
    )
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    loss_f = soft_and_hard if teacher else lambda preds, target: cross_entropy(preds, target[0])
    cbs = [MetricsCallback(accuracy), *cbs]
    return Learner(model, dls, loss_f, 3e-3, torch.optim.Adam, cbs, predictor=Predictor(model, n_inp=1))


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    alone, taught = make_learner(), make_learner(teacher=train_teacher())
    alone.fit(120)  # as many steps
    taught.fit(10, cbs=ProgressCallback())
    plt.subplot(xlabel="digit", ylabel="share of it that is recognized", xticks=range(10))
    for i, (name, learn) in enumerate({"labels": alone, "labels and a teacher": taught}.items()):
        preds, (labels, _) = learn.get_preds()
        right = (preds.argmax(1) == labels).float()
        shares = [right[labels == digit].mean().item() for digit in range(10)]
        plt.bar([digit + 0.4 * i - 0.2 for digit in range(10)], shares, width=0.4, label=f"{name}: {right.mean():.0%}")
    plt.legend(loc="lower right")
    plt.show()
