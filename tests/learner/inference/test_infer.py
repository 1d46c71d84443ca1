"""`learn.infer`: what may be passed, that it is prepared as in a validation, and that nothing is left behind."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks import (
    BatchTransformCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    MetricsCallback,
    RecorderCallback,
    accuracy,
)
from learner import Callback, Learner, LearnerError, Loaders

X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2


def learner(loss_f=cross_entropy, cbs=(), dls=None, model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    return Learner(model, dls or Loaders.from_arrays(train=(X, Y), valid=(X, Y), batch_size=5), loss_f, cbs=cbs)


def by_hand(learn, x=X):
    learn.model.eval()
    with torch.no_grad():
        preds = learn.model(x)
    learn.model.train()
    return preds


@pytest.mark.parametrize(
    "x",
    [
        X,
        X.numpy().astype(np.float64),
        X.tolist(),
        [*X],
        list(zip(X, Y, strict=True)),
        (X, Y),
        TensorDataset(X, Y),
        TensorDataset(X),
    ],
    ids=["tensor", "array", "numbers", "tensors", "pairs", "arrays", "dataset", "inputs"],
)
def test_several_samples_in_any_form(x):
    learn = learner()
    said = learn.infer(x)
    torch.testing.assert_close(said.preds, by_hand(learn))
    assert (len(said), said.is_one) == (12, False)


@pytest.mark.parametrize(
    "x", [X[3], X[3].numpy(), X[3].tolist(), (X[3], Y[3])], ids=["tensor", "array", "list", "pair"]
)
def test_one_sample(x):
    learn = learner()
    said = learn.infer(x)
    torch.testing.assert_close(said.probs, by_hand(learn)[3].softmax(0))
    assert said.is_one


def test_names_come_from_the_collector_the_dataset_or_the_call():
    class Named(TensorDataset):
        classes = ("even", "odd")

    collect = CollectCallback(ClassificationMetricsCollector(classes=["cat", "dog"]))
    loader = DataLoader(Named(X, Y), batch_size=4)
    assert learner(cbs=collect).infer(X[0]).classes == ("cat", "dog")
    assert learner(dls={"train": loader}).infer(X[0]).classes == ("even", "odd")
    assert learner(dls={"train": loader}).infer(X[0], classes=["a", "b"]).labels in ("a", "b")
    assert learner().infer(X[0]).classes is None
    with pytest.raises(LearnerError, match="`classes` must be left out where the model gives no classes"):
        learner(mse_loss).infer(X, classes=["a", "b"])


def test_what_a_callback_does_to_validation_batches_it_does_here():
    def scaled(batch, generator):
        x, y = batch
        return x / 100, y

    learn = learner(cbs=BatchTransformCallback(scaled, on=("train", "valid")))
    torch.testing.assert_close(learn.infer(X).preds, by_hand(learn, X / 100))
    torch.testing.assert_close(learn.infer(X[0]).preds, by_hand(learn, X[:1] / 100)[0])
    learn = learner(cbs=BatchTransformCallback(scaled))  # on training batches alone
    torch.testing.assert_close(learn.infer(X).preds, by_hand(learn))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 2, padding_idx=0)

    def forward(self, tokens):
        return self.table(tokens).sum(1)


def tokens_of(text):
    return torch.tensor([len(word) for word in text.split()])


def padded(samples):
    tokens, labels = zip(*samples, strict=True)
    return pad_sequence(tokens, batch_first=True), torch.tensor(labels)


TEXTS = ["a bad film", "good", "not so good at all"]


def test_samples_of_several_lengths_are_collated_as_in_training():
    data = [(tokens_of(text), i % 2) for i, text in enumerate(TEXTS)]
    learn = learner(model=Words(), dls={"valid": DataLoader(data, batch_size=2, collate_fn=padded)})
    expected = torch.cat([learn.model(padded(data[:2])[0]), learn.model(padded(data[2:])[0])])
    for said in (
        learn.infer([tokens for tokens, _ in data]),
        learn.infer([tokens.tolist() for tokens, _ in data]),
        learn.infer(TEXTS, prepare=tokens_of),
    ):
        torch.testing.assert_close(said.preds, expected.detach())
    assert learn.infer("some words", prepare=tokens_of).is_one
    with pytest.raises(
        TypeError, match=r"got 'raw text' \(it is of another type\); make a sample .* `infer\(x, prepare=fn\)`"
    ):
        learn.infer("raw text")
    with pytest.raises(TypeError, match="change what `prepare` returns"):
        learn.infer("raw text", prepare=str.split)


def test_text_goes_in_raw_where_the_loader_takes_it_raw():
    def collate(samples):
        texts, labels = zip(*samples, strict=True)
        return pad_sequence([tokens_of(text) for text in texts], batch_first=True), torch.tensor(labels)

    data = [(text, i % 2) for i, text in enumerate(TEXTS)]
    learn = learner(model=Words(), dls={"valid": DataLoader(data, batch_size=2, collate_fn=collate)})
    assert learn.infer(TEXTS).preds.shape == (3, 2)
    torch.testing.assert_close(learn.infer("good").preds, learn.infer(TEXTS[:2]).preds[1])


def test_mappings_and_which_loader_they_are_like():
    class Net(nn.Module):
        def forward(self, signal):
            return signal[:, :2]

    wide = [{"signal": X, "age": Y, "label": Y}]
    learn = learner(model=Net(), dls={"train": [(X, Y)], "valid": wide})
    for x in ({"signal": X}, X, [{"signal": row} for row in X]):
        assert torch.equal(learn.infer(x).preds, X[:, :2])
    assert torch.equal(learn.infer({"signal": X[2]}).preds, X[2, :2])
    assert torch.equal(learn.infer((X, Y), like="train").preds, X[:, :2])
    with pytest.raises(ValueError, match="`like` must be the name of a loader, 'train', 'valid', got 'test'"):
        learn.infer(X, like="test")


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (
            X[None],
            ValueError,
            r"must be a sample as those of loader 'valid', Tensor\(3,\) float32, .* got Tensor\(1, 12, 3\)",
        ),
        (
            (X * 10).byte().numpy(),
            TypeError,
            r"got ndarray\(12, 3\) uint8 \(whole numbers, where fractions are known\)",
        ),
        ("text", TypeError, "it is of another type"),
        ([], ValueError, r"got \[\] \(there is nothing in it\)"),
        (TensorDataset(X[:0]), ValueError, "`x` must hold at least one sample, got none"),
        (DataLoader(X), TypeError, r"got DataLoader, which gives batches; do `learn.get_preds\(loader\)`"),
        ([X[0], X[1, :2], "odd"], TypeError, "it is of another type"),
    ],
    ids=["shape", "kind", "text", "nothing", "empty", "loader", "mixed"],
)
def test_what_is_no_sample_is_refused_by_what_one_looks_like(x, error, match):
    with pytest.raises(error, match=match):
        learner().infer(x)


def test_odd_arguments_are_refused():
    frame = type("Frame", (), {"iloc": None})()
    learn = learner()
    with pytest.raises(TypeError, match=r"got a data frame; do `frame.to_numpy\(\)`"):
        learn.infer(frame)
    with pytest.raises(TypeError, match="`prepare` must be a function that makes a sample, got 3"):
        learn.infer(X, prepare=3)
    with pytest.raises(TypeError, match="`is_batch` must be given with `prepare` for an array"):
        learn.infer(X, prepare=lambda x: x)
    with pytest.raises(TypeError, match="`is_batch` must not be False for a dataset"):
        learn.infer(TensorDataset(X), is_batch=False)
    with pytest.raises(TypeError, match="`x` must be several samples, got 'text'"):
        learn.infer("text", is_batch=True)
    assert learn.infer(X, prepare=lambda x: x, is_batch=True).preds.shape == (12, 2)


def test_another_size_goes_in_and_an_error_of_the_model_says_what_is_known():
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        learner().infer(torch.zeros(2, 4))
    note = "A sample of loader 'valid' is Tensor(3,) float32; the first one of `x` is Tensor(4,) float32."
    assert note in caught.value.__notes__


class Stream(IterableDataset):
    def __init__(self, rows=()):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_where_no_loader_shows_a_sample_a_person_says_what_it_is():
    learn = learner(dls={"valid": DataLoader(Stream())})
    with pytest.raises(TypeError, match="`is_batch` must be given, for no loader can show what a sample looks like"):
        learn.infer(X)
    assert learn.infer(X, is_batch=True).preds.shape == (12, 2)
    assert learn.infer(X[0], is_batch=False).preds.shape == (2,)
    assert learn.infer([*X]).preds.shape == (12, 2)
    assert learner().infer(Stream([*X])).preds.shape == (12, 2)


def test_what_outputs_mean_can_be_said():
    learn = learner(lambda preds, target: cross_entropy(preds, target))
    with pytest.raises(LearnerError, match="the loss must be one of torch's for probabilities to be known"):
        learn.infer(X).probs
    torch.testing.assert_close(learn.infer(X, outputs="logits").probs, by_hand(learn).softmax(1))


def test_nothing_is_left_behind():
    recorder = RecorderCallback(lr=lambda learn: 0.1)
    learn = learner(cbs=[MetricsCallback(accuracy=accuracy), recorder])
    learn.fit(2)
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    before = dict(vars(learn)), dict(learn.metrics), len(learn.history), torch.get_rng_state(), learn.cbs
    learn.infer(X)
    after = dict(vars(learn)), dict(learn.metrics), len(learn.history), torch.get_rng_state(), learn.cbs
    assert torch.equal(before[3], after[3])
    assert (before[1:3], before[4]) == (after[1:3], after[4])
    changed = {name for name in before[0] if before[0][name] is not after[0][name]}
    assert changed <= {"_dispatch", "_bound", "cbs", "throughput"}
    assert all(module.training for module in learn.model.modules())
    assert all(torch.equal(weights[name], value) for name, value in learn.model.state_dict().items())


def test_it_may_be_asked_in_the_middle_of_a_fit():
    class Ask(Callback):
        said = None

        def after_batch(self, learn):
            if not learn.is_side_pass:
                self.said = learn.infer(X[0])

    asking, plain = learner(cbs=Ask()), learner()
    for learn in (asking, plain):
        torch.manual_seed(1)
        learn.fit(2)
    assert all(map(torch.equal, asking.model.parameters(), plain.model.parameters()))
    assert asking.cbs[0].said.preds.shape == (2,)
