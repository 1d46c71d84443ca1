"""Batches changed at random: by position, nothing else, and one clear error for what is not a batch any more."""

import copy
import pickle

import pytest
import torch
from torch import nn

from callbacks import BatchTransformCallback, DeviceCallback, LambdaCallback
from learner import Callback, Learner, LearnerError, Predictor
from tests.positions import assert_by_position


def noise(batch, generator):
    x, y = batch
    return x + torch.randn(x.shape, generator=generator), y


class Drawn(Callback):
    """Keep the first number of each batch, by position."""

    def __init__(self):
        self.numbers = {}

    def transform(self, batch, generator):
        self.latest = torch.rand((), generator=generator).item()
        return batch

    def before_batch(self, learn):
        if self.latest is not None:
            key = learn.epoch + learn.history.state_dict()["start"], learn.dl_name, learn.i
            self.numbers.setdefault(key, []).append(self.latest)
        self.latest = None

    latest = None


DATA = [(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))] * 3


def drawing_learner(*others, on="train", seed=0, names=("train", "valid"), before=()):
    drawn = Drawn()
    cbs = [*before, BatchTransformCallback(drawn.transform, on, seed), drawn, *others]
    return Learner(nn.Linear(2, 2), dict.fromkeys(names, DATA), nn.functional.cross_entropy, cbs=cbs), drawn


def test_a_fit_that_was_stopped_goes_on_with_the_same_noise_whatever_workers_and_validation(tmp_path):
    assert_by_position(lambda: [BatchTransformCallback(noise)], tmp_path)


def test_each_position_has_numbers_of_its_own_which_stay_the_same_from_fit_to_fit():
    learn, drawn = drawing_learner(on=("train", "valid"))
    learn.fit(2), learn.fit(2)
    other, also_drawn = drawing_learner(on=("train", "valid"))
    torch.rand(5)  # what others draw makes no difference
    other.fit(4)
    assert drawn.numbers == also_drawn.numbers
    numbers = [number for each in drawn.numbers.values() for number in each]
    assert len(numbers) == len(set(numbers)) == 4 * 6


def test_another_seed_and_another_callback_of_the_kind_draw_other_numbers():
    first, second = Drawn(), Drawn()
    alike = [BatchTransformCallback(drawn.transform) for drawn in (first, second)]
    learn, _ = drawing_learner(first, second, *alike)
    learn.fit(1)
    other, other_seed = drawing_learner(seed=1)
    other.fit(1)
    assert not set(map(str, first.numbers.values())) & set(map(str, second.numbers.values()))
    assert not set(map(str, first.numbers.values())) & set(map(str, other_seed.numbers.values()))


def test_it_draws_from_no_global_generator():
    states = []
    for cbs in ([], [BatchTransformCallback(noise)]):
        learn = Learner(nn.Linear(2, 2), {"train": DATA}, nn.functional.cross_entropy, cbs=cbs)
        torch.manual_seed(3)
        learn.fit(1)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("on", "of_fit", "by_hand"),
    [
        ("train", {"train", "train2"}, set()),
        ("train2", {"train2"}, set()),
        (["valid"], {"valid"}, {"valid"}),
        (("train", "valid", "infer"), {"train", "train2", "valid", "infer"}, {"valid", "infer"}),
    ],
)
def test_training_data_are_changed_while_they_are_trained_on_and_others_always(on, of_fit, by_hand):
    learn, drawn = drawing_learner(on=on, names=("train", "train2", "valid", "infer"))
    learn.fit(1)
    assert {name for _, name, _ in drawn.numbers} == of_fit
    drawn.numbers.clear()
    learn.validate(), learn.validate("train"), learn.get_preds("train"), learn.get_preds(DATA)
    assert {name for _, name, _ in drawn.numbers} == by_hand


def test_a_validation_in_the_middle_of_a_pass_changes_nothing_of_it():
    alone, drawn = drawing_learner()
    alone.fit(2)
    validate = LambdaCallback(after_batch=lambda learn: learn.validate() if learn.training else None)
    learn, also_drawn = drawing_learner(validate)
    learn.fit(2)
    assert drawn.numbers == also_drawn.numbers


def test_it_comes_after_the_device_and_before_all_who_look_at_the_batch():
    seen = []
    look = LambdaCallback(before_batch=lambda learn: seen.append(learn.batch[0]))
    transform = BatchTransformCallback(lambda batch, generator: (batch[0] * 5, batch[1]))
    learn = Learner(nn.Linear(2, 2), {"train": DATA}, nn.functional.cross_entropy, cbs=[look, transform])
    learn.fit(1)
    assert DeviceCallback.order < transform.order < 0
    assert [x.mean().item() for x in seen] == [5.0] * 3
    assert DATA[0][0].mean() == 1


@pytest.mark.parametrize(
    "batch", [{"x": torch.ones(2, device="meta")}, ["a", [torch.ones(2, device="meta")]], ["a", "b"]]
)
def test_the_generator_is_where_the_tensors_are_or_else_the_model(monkeypatch, batch):
    asked = []

    def generator(device):
        asked.append(device)
        return torch._C.Generator("cpu")

    monkeypatch.setattr(torch, "Generator", generator)
    learn = Learner(nn.Linear(2, 2, device="meta"), {"train": DATA}, nn.functional.cross_entropy)
    learn.batch, learn.dl_name, learn.training = batch, "train", True
    BatchTransformCallback(lambda batch, generator: batch).before_batch(learn)
    assert asked == [torch.device("meta")]


def test_it_can_be_copied_and_pickled():
    cb = BatchTransformCallback(noise)
    learn = Learner(nn.Linear(2, 2), {"train": DATA}, nn.functional.cross_entropy, cbs=cb)
    learn.fit(1)
    for other in (copy.deepcopy(cb), pickle.loads(pickle.dumps(cb))):
        assert (other.on, other.seed) == (("train",), 0)


# -- what is not a batch any more ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda batch, g: None, "must return the batch, got None: end it by `return`"),
        (lambda batch, g: batch[0], "the target with the inputs"),
        (lambda batch, g: (batch[0],), "the target with the inputs"),
        (lambda batch, g: (batch[0], None), "the target with the inputs"),
        (lambda batch, g: (batch[0][1:], batch[1][1:]), "as many samples as it got, 4, not 3"),
        (lambda batch, g: [batch[0][1:], batch[1][1:]], "as many samples as it got, 4, not 3"),
        (lambda batch, g: (batch[0].to("meta"), batch[1]), "the batch on its device, cpu, not meta"),
        (lambda batch, g: (batch[0], batch[1].to("meta")), "the batch on its device, cpu, not meta"),
    ],
)
def test_what_is_not_a_batch_any_more_is_one_error_before_anything_is_trained(fn, message):
    learn = Learner(nn.Linear(2, 2), {"train": DATA}, nn.functional.cross_entropy, cbs=BatchTransformCallback(fn))
    before = learn.model.weight.clone()
    with pytest.raises(LearnerError, match=rf"`fn` of BatchTransformCallback, .*lambda.*{message}.*; it got .Tensor"):
        learn.fit(1)
    assert torch.equal(learn.model.weight, before)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda batch, g: {"x": batch["x"]}, "the target with the inputs"),
        (lambda batch, g: {name: value[:2] for name, value in batch.items()}, "as many samples as it got, 4, not 2"),
    ],
)
def test_the_same_of_a_mapping(fn, message):
    class Model(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    data = [{"x": x, "label": y} for x, y in DATA]
    learn = Learner(Model(2, 2), {"train": data}, nn.functional.cross_entropy, cbs=BatchTransformCallback(fn))
    with pytest.raises(LearnerError, match=message):
        learn.fit(1)


def test_the_target_of_a_mapping_is_what_the_predictor_calls_so():
    data = [{"input": x, "species": y} for x, y in DATA]
    model = nn.Linear(2, 2)
    predictor = Predictor(model, target_key="species")
    cb = BatchTransformCallback(lambda batch, generator: {"input": batch["input"]})
    learn = Learner(model, {"train": data}, nn.functional.cross_entropy, cbs=cb, predictor=predictor)
    with pytest.raises(LearnerError, match="the target with the inputs"):
        learn.fit(1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda batch, generator: batch,
        lambda batch, generator: list(batch),
        lambda batch, generator: {"input": batch[0], "label": batch[1]},
        lambda batch, generator: (batch[0].double().float(), batch[1]),
    ],
)
def test_what_is_still_a_batch_trains(fn):
    learn = Learner(nn.Linear(2, 2), {"train": DATA}, nn.functional.cross_entropy, cbs=BatchTransformCallback(fn))
    learn.fit(1)
    assert learn.n_samples == 12


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("noise",), TypeError, "`fn` must be called as fn"),
        ((nn.Dropout,), TypeError, "`fn` must be called as fn"),
        ((lambda batch: batch,), TypeError, "which takes other arguments; do `lambda batch, generator"),
        ((noise, 3), TypeError, "`on` must be names or roles"),
        ((noise, ()), TypeError, "`on` must be names or roles"),
        ((noise, ("train", None)), TypeError, "`on` must be names or roles"),
        ((noise, "train", 0.5), TypeError, "`seed` must be a whole number"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchTransformCallback(*arguments)


def test_a_loader_that_does_not_exist_is_refused_before_the_first_batch():
    learn, _ = drawing_learner(on="trian")
    with pytest.raises(ValueError, match=r"`on` must name loaders that there are, \['train', 'valid'\] or their roles"):
        learn.fit(1)
