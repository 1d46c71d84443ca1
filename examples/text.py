"""Text: sentences of any length, where the order of words decides what they mean.

Start it by `python examples/text.py`: "not bad, but not good" has the words of "not good, but not bad".
"""

import random

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from callbacks import ClipGradientCallback, MetricsCallback, ProgressCallback, accuracy
from learner import Learner, Loaders

GOOD, BAD = ["good", "great", "clever", "moving", "fun"], ["bad", "dull", "silly", "flat", "long"]
HOW, WHAT = ["", "not", "never", "hardly"], ["film", "plot", "cast", "music", "end"]
WORDS = {word: i for i, word in enumerate(["", "a", "the", "was", "but", "very", *GOOD, *BAD, *HOW[1:], *WHAT])}
CLASSES = ["against it", "for it"]


def sentence(draw: random.Random) -> tuple[str, int]:
    """Return some words on a film, of which the last ones decide, and whether they are for it."""
    parts, is_good = [], False
    for _ in range(draw.randint(1, 3)):
        how, is_good = draw.choice(HOW), draw.random() < 0.5
        said = draw.choice(GOOD if is_good else BAD)
        is_good ^= bool(how)
        parts.append(f"the {draw.choice(WHAT)} was {how} {draw.choice(['', 'very'])} {said}")
    return " ".join(" but ".join(parts).split()), int(is_good)


def encode(text: str) -> Tensor:
    """Return the numbers of words."""
    return torch.tensor([WORDS[word] for word in text.split()])


def padded(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Make a batch of sentences, the shorter ones filled up."""
    texts, labels = zip(*samples, strict=True)
    return pad_sequence(list(texts), batch_first=True), torch.tensor(labels)


class Reader(nn.Module):
    """Read word by word, and judge by what is remembered at the end; shapes: (N, words) to (N, 2)."""

    def __init__(self, n_hidden=32):
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), n_hidden, padding_idx=0)
        self.rnn, self.judge = nn.GRU(n_hidden, n_hidden, batch_first=True), nn.Linear(n_hidden, 2)

    def forward(self, words):
        remembered, _ = self.rnn(self.embed(words))
        last = (words > 0).sum(dim=1) - 1
        return self.judge(remembered[torch.arange(len(words)), last])


def make_learner(cbs=()) -> Learner:
    """Return a learner of sentences; always the same one."""
    torch.manual_seed(0)
    draw = random.Random(0)
    data = [(encode(text), label) for text, label in (sentence(draw) for _ in range(2400))]
    dls = Loaders.from_datasets(train=data[:2000], valid=data[2000:], batch_size=40, collate_fn=padded)
    cbs = [ClipGradientCallback(1.0), MetricsCallback(accuracy=accuracy), *cbs]
    return Learner(Reader(), dls, cross_entropy, lr=5e-3, opt_func=torch.optim.Adam, cbs=cbs)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(5)
    text = "the plot was dull but the cast was not bad but the end was hardly moving"
    words = text.split()
    starts = [" ".join(words[:n]) for n in range(4, len(words) + 1)]
    probs = [learn.infer(start, prepare=encode, classes=CLASSES).probs[1].item() for start in starts]
    plt.subplot(ylabel="probability that it is for the film, so far", ylim=(0, 1))
    plt.bar(range(len(probs)), probs, color=["C2" if prob > 0.5 else "C3" for prob in probs])
    plt.xticks(range(len(probs)), words[3:], rotation=90)
    plt.show()
