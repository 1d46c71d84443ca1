"""A language model of characters: the hidden state goes on from batch to batch, the gradient does not.

Start it by `python examples/bptt.py`: it reads a chapter of Python's manual, and then writes one.

Source: Williams & Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent networks",
truncated backpropagation through time.
"""

import textwrap
from pydoc_data.topics import topics

import torch
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

    def __init__(self, n_hidden=96):
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
    return Learner(CharacterModel(), dls, cross_entropy, lr=5e-3, opt_func=torch.optim.Adam, cbs=cbs)


@torch.no_grad()
def write(model: nn.Module, text: str = "The ", n: int = 400) -> str:
    """Let the model go on with a text."""
    preds, hidden = model(torch.tensor([[CHARACTERS.index(character) for character in text]]))
    for _ in range(n):
        code = torch.multinomial((preds[:, :, -1] / 0.4).softmax(dim=1), 1)
        text += CHARACTERS[code.item()]
        preds, hidden = model(code, hidden)
    return text


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(10)
    print(textwrap.fill(write(learn.model), 100))
