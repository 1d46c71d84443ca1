"""A language model of characters that somebody has fed a broken page: found, looked at, and lived without.

Start it by `python examples/back_in_time.py`: it trains, goes back to the batch whose loss was the worst of the last
epochs, prints the text that it stumbled over, and trains the rest again without that.
"""

import tempfile
from pydoc_data.topics import topics

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CheckpointCallback, ClipGradientCallback
from learner import Learner
from learner.replay import seed, without

N_CHARACTERS = 40  # of a sample
TEXT = " ".join(topics["specialnames"].split())[:24_000]
CHARACTERS = sorted(set(TEXT))
BROKEN = list(range(96, 100))  # samples: printed upside down, and so read from the last character to the first


class CharacterModel(nn.Module):
    """Guess the next character; shapes: (samples, characters) to (samples, kinds, characters)."""

    def __init__(self, n_hidden=64):
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), n_hidden)
        self.rnn = nn.GRU(n_hidden, n_hidden, batch_first=True)
        self.out = nn.Linear(n_hidden, len(CHARACTERS))

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0]).mT


def read() -> Tensor:
    """Return the text as samples of a row each, one character longer than what the model sees."""
    codes = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    samples = codes.unfold(0, N_CHARACTERS + 1, N_CHARACTERS).clone()
    samples[BROKEN] = samples[BROKEN].flip(1)
    return samples


def make_learner(cbs=()) -> Learner:
    """Return a learner of the text, the last fifth of which it does not train on; always the same one."""
    torch.manual_seed(0)
    samples, n_train = read(), len(TEXT) // N_CHARACTERS * 4 // 5
    parts = {"train": samples[:n_train], "valid": samples[n_train:]}
    dls = {
        name: DataLoader(TensorDataset(part[:, :-1], part[:, 1:]), batch_size=12, shuffle=name == "train")
        for name, part in parts.items()
    }
    return Learner(CharacterModel(), dls, cross_entropy, 1e-2, torch.optim.Adam, [ClipGradientCallback(1.0), *cbs])


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    folder = tempfile.mkdtemp()
    learn = make_learner(cbs=[CheckpointCallback(folder, every=20, keep="spread")])
    learn.fit(8)
    losses = np.fromfile(f"{folder}/losses.f64", "<f8")  # of each batch
    step = 200 + int(losses[200:].argmax())
    with learn.rewind(folder, step=step) as then, torch.no_grad():
        x, y = then.batch
        each = cross_entropy(learn.model(x), y, reduction="none").mean(dim=1)
        print(f"{then}: loss {losses[step]:.2f}, of all {np.median(losses):.2f}")
        found = int(then.ids[each.argmax()])
        print(f"sample {found} has the largest loss: {''.join(CHARACTERS[code] for code in x[each.argmax()])!r}")
    futures = learn.branch(folder, step, n_steps=50, change={"without it": without(found), "chance": seed(1)})
    print(futures)
    plt.subplot(2, 1, 1, xlabel="step", ylabel="loss of a batch")
    plt.plot(losses, "-o", linewidth=0.8, markevery=[step])
    plt.subplot(2, 1, 2, xlabel="sample of the batch that is marked", ylabel="its loss")
    plt.bar(range(len(each)), each.numpy())
    plt.show()
