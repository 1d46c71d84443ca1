"""A language model of characters by truncated backpropagation through time: the state goes on, the gradient does not.

Start it by `python examples/bptt.py`: it reads a chapter of Python's manual, and then writes.

Source: Williams & Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent networks".
"""

from pydoc_data.topics import topics

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import ClipGradientCallback, ProgressCallback
from learner import Callback, Learner

N_STREAMS, N_STEPS = 16, 32  # places in the text that are read side by side; characters in a batch of each
TEXT = " ".join(topics["specialnames"].split())[:20_000]
CHARACTERS = sorted(set(TEXT))


class HiddenStateCallback(Callback):
    """Let each batch go on from the hidden state that the batch before has left; a pass begins without one."""

    def predict(self, learn):
        learn.preds, hidden = learn.model(learn.xb, learn.pass_state.get("hidden"))
        learn.pass_state["hidden"] = hidden.detach()


class CharacterModel(nn.Module):
    """Guess the next character; shapes: (streams, steps) to (streams, characters, steps), as `cross_entropy` takes."""

    def __init__(self, n_hidden=64):
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), n_hidden)
        self.rnn = nn.GRU(n_hidden, n_hidden, batch_first=True)
        self.out = nn.Linear(n_hidden, len(CHARACTERS))

    def forward(self, x, hidden=None):
        after, hidden = self.rnn(self.embed(x), hidden)
        return self.out(after).mT, hidden


def read(text: str) -> list[tuple[Tensor, Tensor]]:
    """Return batches (x, y) that follow each other in each of the streams; y is one character further on."""
    codes = torch.tensor([CHARACTERS.index(character) for character in text])
    streams = codes[: len(codes) // N_STREAMS * N_STREAMS].reshape(N_STREAMS, -1)
    return list(zip(streams[:, :-1].split(N_STEPS, dim=1), streams[:, 1:].split(N_STEPS, dim=1), strict=True))


def make_learner(cbs=()) -> Learner:
    """Return a learner of a text, the last tenth of which it does not train on; always the same one."""
    torch.manual_seed(0)
    n_train = len(TEXT) * 9 // 10
    dls = {"train": read(TEXT[:n_train]), "valid": read(TEXT[n_train:])}
    cbs = [HiddenStateCallback(), ClipGradientCallback(1.0), *cbs]
    return Learner(CharacterModel(), dls, cross_entropy, lr=1e-2, opt_func=torch.optim.Adam, cbs=cbs)


@torch.no_grad()
def write(model: nn.Module, n_rows: int = 10, n_columns: int = 40) -> None:
    """Let the model write, and draw that; the less sure it is of a character, the darker."""
    code, hidden, probs = torch.tensor([[CHARACTERS.index(" ")]]), None, torch.zeros(n_rows * n_columns)
    for i in range(len(probs)):
        preds, hidden = model(code, hidden)
        said = (preds[:, :, -1] / 0.4).softmax(dim=1)
        code = said.multinomial(1)
        probs[i] = said[0, code.item()]
        plt.text(i % n_columns, i // n_columns, CHARACTERS[code.item()], ha="center", va="center", family="monospace")
    plt.imshow(probs.view(n_rows, n_columns).numpy(), cmap="Oranges_r", vmin=-0.5, aspect="auto")
    plt.axis("off")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(8)
    write(learn.model)
    plt.show()
