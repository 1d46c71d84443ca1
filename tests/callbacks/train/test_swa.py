"""SWACallback: the mean is that of torch's own, statistics of batch norm with it, also over a stop."""

import copy
import os
import signal
from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    BestModelCallback,
    CheckpointCallback,
    EMACallback,
    EpochLengthCallback,
    SWACallback,
    ValidateCallback,
)
from learner import Callback, CancelEpochException, CancelFitException, Learner, LearnerError
from learner.checkpoint import read_checkpoint
from tests.callbacks.train.test_batch_norm import generators
from tests.resuming import (
    StopAt,
    assert_equal_runs,
    differing,
    resumed,
    resumed_from_each,
    seed_all,
    stopped,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

SGD = partial(torch.optim.SGD, momentum=0.9)


def batches(n=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(n)]


def network(*dropout):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), *dropout, nn.Linear(8, 3))


def learner(*cbs, has_valid=True, model=None):
    loaders = {"train": batches(), **({"valid": batches(3)} if has_valid else {})}
    return Learner(model or network(), loaders, nn.functional.cross_entropy, 0.1, SGD, [*cbs])


def by_hand(n_epochs, first):
    """Train with torch's own averaging; return the averaged model after each epoch from `first` on, and the last."""
    model, data, found = network(), batches(), []
    opt = SGD(model.parameters(), lr=0.1)
    averaged = AveragedModel(model)
    for epoch in range(n_epochs):
        model.train()
        for x, y in data:
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        if epoch >= first:
            averaged.update_parameters(model)
            found.append(copy.deepcopy(averaged.module))
            update_bn(data, found[-1])
    return found, model


def assert_close(model, expected, atol=1e-6):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=atol, msg=name)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


@pytest.mark.parametrize("has_valid", [True, False])
@pytest.mark.parametrize(
    ("start", "n_epochs", "first"), [(0.75, 4, 3), (0.5, 4, 2), (0.0, 3, 0), (0.75, 1, 0), (0.99, 3, 2), (0.7, 4, 2)]
)
def test_it_equals_that_of_torch(start, n_epochs, first, has_valid):
    learn = learner(swa := SWACallback(start), has_valid=has_valid)
    learn.fit(n_epochs)
    averages, _ = by_hand(n_epochs, first)
    assert swa.n_updates == n_epochs - first
    assert_close(learn.model, averages[-1])
    assert learn.model[1].num_batches_tracked == 5
    for name, p in learn.model.named_parameters():
        assert torch.equal(swa.average[name], p)


def test_each_validation_from_the_start_on_is_that_of_the_mean():
    learn = learner(SWACallback(0.5))
    learn.fit(4)
    averages, _ = by_hand(4, 2)
    plain = learner()
    plain.fit(4)
    losses, plain_losses = ([row["valid/loss"] for row in one.history] for one in (learn, plain))
    assert losses[:2] == plain_losses[:2]
    expected = [learner(model=model).validate()["loss"] for model in averages]
    assert losses[2:] == pytest.approx(expected, abs=1e-6)
    assert [row["train/loss"] for row in learn.history] == [row["train/loss"] for row in plain.history]


def test_training_is_bit_for_bit_what_it_is_without():
    """Weights, buffers and random generators up to the end, with a loader that shuffles and a model that drops."""

    class Last(Callback):
        order = 39

        def after_fit(self, learn):
            self.model = copy.deepcopy(learn.model.state_dict())
            self.rng = generators()

    ends = []
    for cbs in ([SWACallback(0.4)], []):
        x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
        loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
        model = network(nn.Dropout(0.5))
        seed_all(0)
        learn = Learner(model, {"train": loader, "valid": batches(2)}, nn.functional.cross_entropy, 0.1, SGD, cbs)
        learn.fit(5, cbs=(last := Last()))
        ends.append((last.model, last.rng))
        assert generators() == last.rng
    assert differing(ends[0][0], ends[1][0]) == []
    assert ends[0][1] == ends[1][1]


def test_a_model_without_batch_norm_takes_no_pass_more():
    passes = []

    class Hear(Callback):
        def before_epoch(self, learn):
            passes.append((learn.dl_name, learn.role))

    model = nn.Linear(4, 3)
    learner(SWACallback(0.0), Hear(), model=model).fit(2)
    assert passes == [("train", "train"), ("valid", "valid")] * 2
    passes.clear()
    learner(SWACallback(0.0), Hear()).fit(1)
    assert passes == [("train", "train"), ("train", "infer"), ("valid", "valid")]
    passes.clear()
    learner(SWACallback(0.0), Hear(), has_valid=False).fit(2)
    assert passes == [("train", "train"), ("train", "train"), ("train", "infer")]


def test_several_training_loaders_count_each():
    data = batches()
    loaders = {"train": data[:3], "train2": data[3:], "valid": data}
    learn = Learner(network(), loaders, nn.functional.cross_entropy, 0.1, SGD, cbs=(swa := SWACallback(0.5)))
    learn.fit(2)
    model, opt, seen = network(), None, []
    opt = SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        for part in (data[:3], data[3:]):
            for x, y in part:
                nn.functional.cross_entropy(model(x), y).backward()
                opt.step()
                opt.zero_grad()
            if epoch == 1:
                seen.append(weights(model))
    assert swa.n_updates == 2
    torch.testing.assert_close(weights(learn.model), sum(seen) / 2, rtol=0, atol=1e-6)
    assert learn.model[1].num_batches_tracked == 5


@pytest.mark.parametrize("error", [CancelFitException, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("role", ["valid", "infer"])
def test_a_fit_that_does_not_end_by_itself_keeps_the_trained_weights(error, role):
    """Also where it ends while the statistics of batch norm are computed."""

    class Fail(Callback):
        def after_predict(self, learn):
            if learn.epoch == 2 and learn.role == role and learn.i == 1:
                raise error("on purpose")

    learn = learner(swa := SWACallback(0.5), Fail())
    if error is CancelFitException:
        learn.fit(4)
    else:
        with pytest.raises(error, match="on purpose"):
            learn.fit(4)
    _, expected = by_hand(3, 2)
    assert differing(dict(learn.model.state_dict()), dict(expected.state_dict())) == []
    assert learn.model[1].momentum == 0.1
    swa.apply(learn)
    assert torch.equal(weights(learn.model), weights(expected))  # the mean of one
    learn.remove_cb(learn.cbs[1])
    learn.fit(1)


def test_a_training_pass_that_is_cancelled_does_not_count():
    class Cut(Callback):
        def after_batch(self, learn):
            if learn.training and learn.epoch == 3:
                raise CancelEpochException

    learn = learner(swa := SWACallback(0.5), Cut())
    learn.fit(4)
    assert swa.n_updates == 1


def test_a_validation_in_the_middle_of_an_epoch_sees_the_mean_of_the_epochs_before():
    learn = learner(SWACallback(0.5), validate := ValidateCallback(5))
    learn.fit(4)
    losses = [row.metrics["loss"] for row in validate.rows]
    assert len(losses) == 4
    assert losses[3] == learn.history[2]["valid/loss"]  # after the last batch of epoch 3, before it is averaged


def test_the_best_model_is_the_mean_of_its_epoch():
    learn = learner(SWACallback(0.25), best := BestModelCallback())
    learn.fit(4)
    losses = [row["valid/loss"] for row in learn.history]
    with best.in_place(learn):
        assert learn.validate()["loss"] == min(losses) == learn.best.value


def test_applied_before_the_fit_has_ended(tmp_path):
    """A later best epoch is had from its checkpoint: the trained weights, and the mean with its statistics."""
    learn = learner(SWACallback(0.25), keep := CheckpointCallback(tmp_path / "a", metric="loss"))
    learn.fit(4)
    other = learner(swa := SWACallback(0.25), CheckpointCallback(tmp_path / "b", metric="loss"))
    other.load(keep.best_path)
    trained = copy.deepcopy(other.model.state_dict())
    with swa.applied(other):
        assert other.validate()["loss"] == keep.best.value
    assert differing(dict(other.model.state_dict()), dict(trained)) == []
    swa.apply(other)
    assert other.validate()["loss"] == keep.best.value


def test_frozen_batch_norm_stays_as_it_is():
    model = network()
    model[1].eval()
    learn = learner(swa := SWACallback(0.0), model=model)
    learn.fit(2)
    assert model[1].num_batches_tracked == 0
    assert "1.running_mean" not in swa.average


def test_an_endless_loader_that_is_cut_where_a_pass_begins():
    class Endless:
        def __iter__(self):
            while True:
                yield from batches()

    class Cut(Callback):
        def before_epoch(self, learn):
            if learn.training:
                learn.dl = list(islice(learn.dl, 5))

    learn = Learner(network(), {"train": Endless()}, nn.functional.cross_entropy, 0.1, SGD, [SWACallback(0.5), Cut()])
    learn.fit(4)
    assert_close(learn.model, by_hand(4, 2)[0][-1])


def test_short_types_are_averaged_in_full():
    model = network().to(torch.bfloat16)
    data = [(x.to(torch.bfloat16), y) for x, y in batches()]
    loaders = {"train": data, "valid": data}
    learn = Learner(model, loaders, nn.functional.cross_entropy, 0.1, SGD, cbs=(swa := SWACallback(0.0)))
    learn.fit(3)
    assert swa.average["0.weight"].dtype == torch.float32
    assert torch.equal(model[0].weight, swa.average["0.weight"].to(torch.bfloat16))


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        (1, ValueError, "`start` must be at least 0 and below 1, got 1"),
        (-0.1, ValueError, "`start` must be at least 0 and below 1, got -0.1"),
        (float("nan"), ValueError, "`start` must be at least 0 and below 1, got nan"),
        ("0.75", TypeError, "`start` must be a number, got '0.75'"),
        (True, TypeError, "`start` must be a number, got True"),
    ],
)
def test_what_it_cannot_begin_with(start, error, words):
    with pytest.raises(error, match=words):
        SWACallback(start)


def test_a_part_of_the_epochs_is_rounded_as_it_is_written():
    class Last(Callback):
        def before_fit(self, learn):
            learn.epochs = [56, 57]

    learn = learner(swa := SWACallback(0.57), Last(), model=nn.Linear(4, 3))  # 0.57 * 100 is 56.99999999999999
    learn.fit(100)
    assert swa.n_updates == 1


def test_with_an_exponential_average():
    with pytest.raises(ValueError, match=r"one average that validation sees, got (SWA|EMA)Callback and"):
        learner(SWACallback(), EMACallback()).fit(1)
    learn = learner(SWACallback(0.5), ema := EMACallback(0.9, validate=False))
    learn.fit(4)
    assert_close(learn.model, by_hand(4, 2)[0][-1])
    alone = learner(of_one := EMACallback(0.9))
    alone.fit(4)
    assert differing(ema.average, of_one.average) == []


# -- checkpoints -------------------------------------------------------------------------------------------------------


def make(cbs):
    return tiny_learner([*cbs, SWACallback(0.3), BestModelCallback()], SGD)


def state_of(learn):
    return next(cb for cb in learn.cbs if isinstance(cb, SWACallback)).state_dict()


def assert_same(a, b):
    assert_equal_runs(a, b)
    assert differing(state_of(a), state_of(b)) == []


def test_going_on_from_each_batch_is_exact(tmp_path):
    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    assert len(gone_on) == 18
    for learn in gone_on:
        assert_same(learn, whole)


@pytest.mark.parametrize("stop_at", [14, 15, 16, 17, 24, 26])
def test_going_on_from_within_a_validation_is_exact(tmp_path, stop_at):
    """An epoch is 6 batches that train and 3 of validation; after the last batch that trains, a pass comes between."""
    whole = uninterrupted(make, 3, tmp_path / "whole", "epoch")
    gone_on = stopped_and_resumed(make, 3, stop_at, tmp_path / "cut", "epoch", by_interrupt=True)
    assert_same(gone_on, whole)


def test_a_checkpoint_from_within_a_validation_holds_the_trained_weights(tmp_path):
    cut = stopped(make, 3, 16, tmp_path / "cut", "epoch", by_interrupt=True)
    plain = uninterrupted(lambda cbs: tiny_learner(cbs, SGD), 2, tmp_path / "plain", "epoch")
    state = read_checkpoint(max((tmp_path / "cut").glob("*.pt")))
    assert state["fit"]["loader"] == "valid"
    assert differing(state["model"]["state"], dict(plain.model.state_dict())) == []
    assert differing(dict(cut.model.state_dict()), dict(plain.model.state_dict())) == []


def test_a_longer_fit_begins_its_mean_where_it_would_have(tmp_path, capsys):
    """The last checkpoint of the shorter one has the trained weights, and a mean that began too early."""

    def make(cbs):
        return tiny_learner([*cbs, SWACallback(0.5)], SGD)

    whole = uninterrupted(make, 6, tmp_path / "whole", "epoch")
    uninterrupted(make, 3, tmp_path / "part", "epoch")
    longer = resumed(make, 6, tmp_path / "part", "epoch")
    assert differing(dict(longer.model.state_dict()), dict(whole.model.state_dict())) == []
    assert state_of(longer)["n_updates"] == 3
    assert differing(state_of(longer), state_of(whole)) == []
    assert capsys.readouterr().out.count("begins with epoch 3 of this fit, not epoch 1") == 1


@pytest.mark.parametrize("stop_at", [22, 25])
def test_a_fit_of_another_length_from_within_an_epoch(tmp_path, capsys, stop_at):
    """From epoch 2 of 3 on, of which the first would have been averaged in a fit of four; it is said, once."""

    def make(cbs):
        return tiny_learner([*cbs, SWACallback(0.3)], SGD)

    stopped(make, 3, stop_at, tmp_path, "epoch", by_interrupt=True)
    assert capsys.readouterr().out == ""
    learn = resumed(make, 4, tmp_path, "epoch")
    out = capsys.readouterr().out
    assert (
        out.count("the mean of the weights begins with epoch 1 of this fit, not epoch 0; weights of epochs that are")
        == 1
    )
    assert state_of(learn)["n_updates"] == (2 if stop_at == 22 else 1)
    for name, p in learn.model.named_parameters():
        assert torch.equal(p, state_of(learn)["average"][name])


def test_a_fit_that_is_resumed_when_it_is_done_ends_with_the_mean(tmp_path):
    done = uninterrupted(make, 3, tmp_path, "epoch")
    again = resumed(make, 3, tmp_path, "epoch")
    assert differing(dict(again.model.state_dict()), dict(done.model.state_dict())) == []


def test_another_start_is_refused_when_a_fit_goes_on(tmp_path):
    stopped(lambda cbs: tiny_learner([*cbs, SWACallback(0.5)]), 2, 4, tmp_path)
    with pytest.raises(LearnerError, match=r"`start` is 0\.3 here, 0\.5 saved of callback SWACallback"):
        resumed(lambda cbs: tiny_learner([*cbs, SWACallback(0.3)]), 2, tmp_path)


def test_nothing_leaks_from_a_sandbox():
    learn = learner(SWACallback(0.0))
    learn.fit(1)
    before, state = copy.deepcopy(learn.model.state_dict()), copy.deepcopy(state_of(learn))
    with learn.sandbox():
        learn.fit(2)
    learn.lr_find(n=5, plot=False)
    assert differing(dict(learn.model.state_dict()), dict(before)) == []
    assert differing(state_of(learn), state) == []


def test_a_stop_that_is_asked_for_while_statistics_are_computed(tmp_path):
    """The pass ends; the checkpoint comes with the next batch of the fit's own."""

    class Interrupt(Callback):
        def after_batch(self, learn):
            if (learn.role, learn.epoch, learn.i) == ("infer", 1, 1):
                os.kill(os.getpid(), signal.SIGINT)

    whole = uninterrupted(make, 3, tmp_path / "whole", "epoch")
    cut = make([CheckpointCallback(tmp_path / "cut"), StopAt()])
    seed_all(0)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(3, cbs=Interrupt())
    assert read_checkpoint(max((tmp_path / "cut").glob("*.pt")))["fit"]["loader"] == "valid"
    assert_same(resumed(make, 3, tmp_path / "cut", "epoch"), whole)


# -- fits of so many steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cbs", [[], [EpochLengthCallback(train=3)]])
def test_a_fit_of_steps_averages_the_passes_that_end_in_its_last_part(cbs):
    ends = []

    class Note(Callback):
        order = 39

        def after_epoch(self, learn):
            if learn.training:
                ends.append((learn.n_steps, learn.model[0].weight.detach().clone()))

    swa = SWACallback(start=0.5)
    learn = learner(swa, Note(), *cbs)
    learn.fit(steps=13)
    last = [weight for n_steps, weight in ends if n_steps > 6]
    assert 1 < len(last) == swa.n_updates < len(ends)
    assert torch.allclose(learn.model[0].weight, torch.stack(last).mean(0), atol=1e-6)


def test_statistics_of_batch_norm_do_not_move_a_loader_that_goes_on():
    def losses(*cbs):
        learn = learner(EpochLengthCallback(train=3), *cbs)
        learn.fit(4)
        return learn.history.to_dict()["train/loss"]

    assert losses(SWACallback(start=0.25)) == losses()
