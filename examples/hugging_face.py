"""A model of Hugging Face, which makes its loss itself: a small BERT that learns what "not" does to a sentence.

Start it by `python examples/hugging_face.py`; it needs `pip install transformers`, and loads nothing.
"""

import itertools
import random

import torch
from matplotlib import pyplot as plt
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from callbacks import (
    ClipGradientCallback,
    MetricsCallback,
    ProgressCallback,
    SchedulerCallback,
    accuracy,
    warmup_cosine,
)
from learner import Learner, Loaders

GOOD, BAD = ["good", "great", "clever", "moving", "fun"], ["bad", "dull", "silly", "flat", "long"]
WHAT, HOW, MORE = ["film", "plot", "cast", "music"], ["", "not", "never", "hardly"], ["", "very", "really"]
WORDS = {word: i for i, word in enumerate(["", "^", "the", "was", *GOOD, *BAD, *WHAT, *HOW[1:], *MORE[1:]])}
CLASSES, N_MOST = {0: "against it", 1: "for it"}, 7


def sentences() -> list[tuple[str, int]]:
    """Return all sentences that there are, with whether they are for a film, in an order by chance."""
    made = []
    for what, how, more, said in itertools.product(WHAT, HOW, MORE, GOOD + BAD):
        text = " ".join(f"the {what} was {how} {more} {said}".split())
        made.append((text, int((said in GOOD) != bool(how))))
    return random.Random(0).sample(made, len(made))


def collate(samples: list[tuple[str, int]]) -> dict[str, Tensor]:
    """Make a batch as the model takes it, by the names of its arguments."""
    texts, labels = zip(*samples, strict=True)
    rows = [[WORDS[word] for word in ("^", *text.split())] for text in texts]
    ids = torch.tensor([row + [0] * (N_MOST - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor(labels)}


def make_learner(cbs=()) -> Learner:
    """Return a learner of sentences; always the same one."""
    torch.manual_seed(0)
    data = sentences()
    dls = Loaders.from_datasets(train=data[:360], valid=data[360:], batch_size=20, collate_fn=collate)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=N_MOST, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, id2label=CLASSES,
    )  # fmt: skip
    cbs = [ClipGradientCallback(1.0), MetricsCallback(accuracy=accuracy), SchedulerCallback(warmup_cosine()), *cbs]
    return Learner(BertForSequenceClassification(config), dls, lr=3e-3, opt_func=torch.optim.AdamW, cbs=cbs)


def draw(learn: Learner) -> None:
    """Draw how sure it is that a sentence is for the film, by its last word and the one before."""
    texts = [" ".join(f"the film was {how} {said}".split()) for how in HOW for said in GOOD + BAD]
    probs = learn.infer([(text, 0) for text in texts]).probs[:, 1]
    plt.imshow(probs.view(len(HOW), -1).numpy(), cmap="PiYG", aspect="auto", vmin=0, vmax=1)
    plt.xticks(range(10), GOOD + BAD, rotation=90)
    plt.yticks(range(len(HOW)), [f"the film was {how} …" for how in HOW])
    plt.colorbar(label="probability that it is for the film")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(12)
    draw(learn)
    plt.show()
