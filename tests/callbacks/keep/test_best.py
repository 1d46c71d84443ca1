"""BestModelCallback: which epoch is best, and that its model comes back bit for bit."""

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from callbacks import BestModelCallback, LambdaCallback, MetricsCallback, accuracy
from learner import Callback, CancelEpochException, CancelFitException, Learner, LearnerError
from learner.checkpoint.snapshot import snapshot
from tests.resuming import (
    assert_equal_runs,
    differing,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    seed_all,
    stopped,
    tiny_learner,
    uninterrupted,
)

VALUES = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))


class Feed(Callback):
    """Give the validation loader the scores of a list, one an epoch; copy the model as it then is."""

    def __init__(self, values):
        self.values, self.states = values, []

    def before_fit(self, learn):
        self.states = []

    def after_epoch(self, learn):
        if learn.dl_name == "valid":
            learn.metrics["valid"]["score"] = self.values[learn.epoch]
            self.states.append(state_of(learn.model))


class Odd(nn.Module):
    """A model with about everything that modules may hold."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.last.weight = self.first.weight  # shared
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("bank", torch.zeros(0, 2))
        self.register_buffer("cache", None, persistent=False)
        self.register_buffer("wide", torch.ones(1).expand(3))
        self.notes = []

    def forward(self, x):
        self.n_calls = self.n_calls + 1  # bound anew
        if self.training:
            self.bank = torch.cat([self.bank, x.detach()[:1]])  # grows
            self.notes.append(len(self.notes))
            if len(self.notes) == 5:
                self.cache = x.detach().mean(0)
                self.wide = torch.zeros(2)
        return self.last(self.norm(self.first(x)).relu())

    def get_extra_state(self):
        return {"notes": self.notes}

    def set_extra_state(self, state):
        self.notes = state["notes"]


def state_of(model):
    """Return copies of all parameters, buffers and extra states."""
    state = {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}
    for name, module in model.named_modules():
        state |= {f"{name}.{n}": None if b is None else b.clone() for n, b in module._buffers.items()}
    return state | {"notes": list(getattr(model, "notes", []))}


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype if isinstance(a[k], torch.Tensor) else a[k] == b[k]
        for k in a
    )


def make(*cbs, model=None, lr=0.1, **loaders):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)) for _ in range(2)]
    dls = loaders or {"train": batches, "valid": batches[:1]}
    return Learner(model or nn.Linear(2, 2), dls, nn.functional.mse_loss, lr=lr, cbs=cbs)


def best_by_hand(values, mode):
    """Return the first index of the best value that is a number, or None."""
    numbers = [(value if mode == "min" else -value, i) for i, value in enumerate(values) if value == value]
    return min(numbers)[1] if numbers else None


@given(values=st.lists(VALUES, max_size=8), mode=st.sampled_from(["min", "max"]))
@settings(max_examples=60, deadline=None)
def test_it_is_the_first_of_the_best_values_and_its_weights_come_back(values, mode):
    feed = Feed(values)
    keep = BestModelCallback("score", mode=mode, restore=True)
    learn = make(feed, keep, model=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    before = state_of(learn.model)
    learn.fit(len(values))
    i = best_by_hand(values, mode)
    if i is None:
        assert learn.best is None
        assert same(state_of(learn.model), feed.states[-1] if feed.states else before)
    else:
        assert learn.best == keep.best == (i, values[i], "valid/score")
        assert same(state_of(learn.model), feed.states[i])


def test_choosing_by_the_second_validation_set_equals_a_hand_written_loop():
    generator = torch.Generator().manual_seed(2)
    dls = {}
    for name, noise in (("train", 3.0), ("valid", 3.0), ("valid2", 0.1)):
        x = torch.randn(24, 4, generator=generator)
        y = x[:, :1] + noise * torch.randn(24, 1, generator=generator)
        dls[name] = list(zip(x.split(10), y.split(10), strict=True))
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    by_hand = copy.deepcopy(model)
    opt, states = torch.optim.SGD(by_hand.parameters(), lr=0.1), []
    losses = {"valid": [], "valid2": []}
    for _ in range(12):
        for x, y in dls["train"]:
            nn.functional.mse_loss(by_hand(x), y).backward()
            opt.step()
            opt.zero_grad()
        for name, means in losses.items():
            with torch.no_grad():
                means.append(sum(len(x) * nn.functional.mse_loss(by_hand(x), y).item() for x, y in dls[name]) / 24)
        states.append(state_of(by_hand))
    by_valid, best = (min(range(12), key=means.__getitem__) for means in losses.values())
    assert len({0, best, by_valid, 11}) == 4

    learn = Learner(model, dls, nn.functional.mse_loss, lr=0.1, cbs=BestModelCallback(loader="valid2", restore=True))
    learn.fit(12)
    assert (learn.best.epoch, learn.best.metric) == (best, "valid2/loss")
    assert learn.best.value == pytest.approx(losses["valid2"][best], rel=1e-6)  # sums of float32 in another order
    assert same(state_of(learn.model), states[best])
    assert learn.validate("valid2")["loss"] == learn.best.value


def test_all_that_makes_a_model_comes_back_bit_for_bit():
    feed = Feed([3.0, 1.0, 2.0, 5.0])
    keep = BestModelCallback("score", mode="min")
    learn = make(feed, keep, model=Odd())
    learn.fit(4)
    assert not same(state_of(learn.model), feed.states[1])
    assert learn.model.cache is not None
    parameters = list(learn.model.parameters())
    running_mean = learn.model.norm.running_mean
    for _ in range(2):  # the copy is not used up, nor part of the model afterwards
        keep.put_back(learn)
        assert same(state_of(learn.model), feed.states[1])
        assert all(a is b for a, b in zip(parameters, learn.model.parameters(), strict=True))
        assert learn.model.norm.running_mean is running_mean  # in place: others may hold it
        learn.model.notes.append("changed")
        for tensor in (*learn.model.parameters(), *learn.model.buffers()):
            tensor.data = tensor.data + 1
    keep.put_back(learn)
    assert same(state_of(learn.model), feed.states[1])
    learn.fit(1)  # and it can be trained on


def test_an_expanded_buffer_comes_back():
    model = nn.Linear(2, 2)
    model.register_buffer("wide", torch.ones(1).expand(3))
    learn = make(keep := BestModelCallback(), model=model)
    learn.fit(1)
    keep.put_back(learn)
    assert torch.equal(model.wide, torch.ones(3))


def test_the_copy_is_no_larger_than_the_model():
    learn = make(keep := BestModelCallback(), model=Odd())
    learn.fit(1)
    kept = [t for part in keep._copy.values() for t in part.values() if isinstance(t, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in learn.model.parameters()}
    own |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in learn.model.buffers()}
    assert sum(storages.values()) <= sum(own.values())
    assert not storages.keys() & (own.keys() - {0})  # and of its own
    assert not any(t.requires_grad for t in kept)


class EndIn(Callback):
    """End the fit in the training pass of an epoch."""

    def __init__(self, epoch, error):
        self.epoch, self.error = epoch, error

    def after_batch(self, learn):
        if learn.epoch == self.epoch and learn.training:
            raise self.error("on purpose")


@pytest.mark.parametrize("error", [CancelFitException, KeyboardInterrupt, KeyError])
def test_the_best_weights_are_put_back_however_the_fit_ends(error):
    feed = Feed([1.0, 2.0, 3.0])
    learn = make(feed, BestModelCallback("score", mode="min", restore=True), EndIn(2, error))
    if error is CancelFitException:
        learn.fit(3)
    else:
        with pytest.raises(error, match="on purpose"):
            learn.fit(3)
    assert learn.best.epoch == 0
    assert same(state_of(learn.model), feed.states[0])


def test_a_validation_after_a_fit_that_was_cut_short_does_not_count():
    log = LambdaCallback(after_batch=lambda learn: learn.log(score=-learn.epoch))
    learn = make(log, BestModelCallback("score", mode="min"), EndIn(1, CancelFitException))
    learn.fit(3)
    learn.validate()
    assert learn.best == (0, 0.0, "valid/score")


def test_a_fit_that_ends_before_there_is_a_best_epoch_keeps_its_weights():
    learn = make(BestModelCallback(restore=True), EndIn(0, CancelFitException))
    before = state_of(learn.model)
    learn.fit(1)
    assert learn.best is None
    assert not same(state_of(learn.model), before)  # the step that was made


def test_without_restore_the_last_weights_stay():
    feed = Feed([1.0, 2.0])
    learn = make(feed, keep := BestModelCallback("score", mode="min"))
    learn.fit(2)
    assert same(state_of(learn.model), feed.states[1])
    keep.put_back(learn)
    assert same(state_of(learn.model), feed.states[0])


def test_the_best_so_far_is_there_while_the_fit_runs():
    seen = []

    class Look(Callback):
        order = 51

        def before_epoch(self, learn):
            seen.append(learn.best)

        def after_epoch(self, learn):
            seen.append(learn.best)

    learn = make(Feed([2.0, 1.0]), BestModelCallback("score", mode="min"), Look())
    learn.fit(2)
    first, second = (0, 2.0, "valid/score"), (1, 1.0, "valid/score")
    assert seen == [None, None, None, first, first, first, first, second]


def test_a_second_fit_starts_clean_and_counts_on():
    feed = Feed([1.0, 2.0])
    learn = make(feed, keep := BestModelCallback("score", mode="min", restore=True))
    learn.fit(2)
    assert learn.best == (0, 1.0, "valid/score")
    feed.values = [7.0, 6.0]
    learn.fit(2)
    assert learn.best == (3, 6.0, "valid/score")
    assert learn.history[3]["valid/score"] == 6.0
    assert same(state_of(learn.model), feed.states[1])
    feed.values = [math.nan]
    learn.fit(1)
    assert learn.best is None
    assert keep._copy == {}  # no memory is held for a fit that is long over


def test_metrics_of_a_callback_that_was_given_later_are_seen():
    batches = [(torch.eye(2), torch.tensor([0, 1]))]
    learn = make(BestModelCallback("accuracy", mode="max"), train=batches, valid=batches)
    learn.loss_f = nn.functional.cross_entropy
    learn.fit(2, cbs=MetricsCallback(accuracy))
    rows = learn.history.to_dict()["valid/accuracy"]
    assert learn.best.value == max(rows)


def test_a_range_test_leaves_the_best_untouched():
    feed = Feed([1.0, 2.0])
    learn = make(feed, keep := BestModelCallback("score", mode="min"))
    learn.fit(2)
    best = learn.best
    learn.lr_find(n=5, plot=False)
    with learn.sandbox():
        feed.values = [-5.0, -6.0]
        learn.fit(2)
        assert learn.best.value == -6.0
        states = feed.states
    assert learn.best is best
    assert keep.best is best
    keep.put_back(learn)
    assert same(state_of(learn.model), feed.states[0])
    assert not same(state_of(learn.model), states[1])


def test_it_changes_nothing_that_is_trained():
    def train(*cbs):
        torch.manual_seed(1)
        learn = make(*cbs, model=nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 2)))
        learn.fit(3)
        return state_of(learn.model)

    assert same(train(), train(BestModelCallback()))


def test_it_takes_no_copy_without_an_improvement(monkeypatch):
    n = 0
    deepcopy = copy.deepcopy

    def count(value, *args):
        nonlocal n
        n += isinstance(value, dict) and "parameters" in value
        return deepcopy(value, *args)

    monkeypatch.setattr(copy, "deepcopy", count)
    make(Feed([2.0, 2.0, 3.0, math.nan, 1.0]), BestModelCallback("score", mode="min")).fit(5)
    assert n == 2


def test_a_cancelled_pass_is_not_the_best_one():
    class Cancel(Callback):
        def after_epoch(self, learn):
            if learn.dl_name == "valid" and learn.epoch == 1:
                raise CancelEpochException

    log = LambdaCallback(after_batch=lambda learn: learn.log(score=-learn.epoch))
    learn = make(log, BestModelCallback("score", mode="min"), Cancel())
    learn.fit(2)
    assert learn.best.epoch == 0


def test_there_is_one_of_it():
    learn = make(BestModelCallback(), BestModelCallback("loss", "train"))
    with pytest.raises(ValueError, match="`cbs` must hold one BestModelCallback, got more"):
        learn.fit(1)


def test_nothing_can_be_put_back_before_a_best_epoch():
    learn = make(keep := BestModelCallback())
    with pytest.raises(LearnerError, match="`put_back` must come after a fit with a best epoch"):
        keep.put_back(learn)


def without_the_norm(model):
    model[1] = nn.Identity()


def wider(model):
    model[0] = nn.Linear(2, 1)  # its shapes could be filled by broadcasting


@pytest.mark.parametrize("change", [without_the_norm, wider])
def test_another_model_is_refused_as_a_whole(change):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    learn = make(keep := BestModelCallback(), model=model)
    learn.fit(1)
    change(model)
    before = state_of(model)
    with pytest.raises(LearnerError, match=r"`model` must have the layers of which a copy was kept"):
        keep.put_back(learn)
    assert same(state_of(model), before)


def test_a_mode_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="`mode` must be 'min' or 'max', got 'best'"):
        BestModelCallback(mode="best")


@pytest.mark.parametrize("error", [None, KeyError])
def test_the_best_weights_are_in_place_for_a_block_of_code_alone(error):
    feed = Feed([3.0, 1.0, 2.0, 5.0])
    learn = make(feed, keep := BestModelCallback("score", mode="min"), model=Odd())
    learn.fit(4)
    last, parameters = state_of(learn.model), list(learn.model.parameters())
    for _ in range(2):
        try:
            with keep.in_place(learn):
                assert same(state_of(learn.model), feed.states[1])
                if error:
                    raise error
        except KeyError:
            pass
        assert same(state_of(learn.model), last)
        assert all(a is b for a, b in zip(parameters, learn.model.parameters(), strict=True))


def test_nothing_is_in_place_without_a_best_epoch():
    learn = make(keep := BestModelCallback())
    before = state_of(learn.model)
    with pytest.raises(LearnerError, match="`put_back` must come after a fit with a best epoch"), keep.in_place(learn):
        pass
    assert same(state_of(learn.model), before)


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


def keeping(cbs, restore=True, mode="max"):
    """The second of three epochs is the best one, or the last if small is best."""
    return tiny_learner([Feed([2.0, 3.0, 1.0, 0.0, 4.0]), BestModelCallback("score", mode=mode, restore=restore), *cbs])


def keep_of(learn):
    return next(cb for cb in learn.cbs if isinstance(cb, BestModelCallback))


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_epoch_and_its_model_are_there_after_a_resume_from_every_batch(tmp_path, restore, mode):
    make = partial(keeping, restore=restore, mode=mode)
    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    assert len(gone_on) == 18
    for learn in gone_on + (resumed_from_each_validation(make, 3, tmp_path) if restore else []):
        assert_equal_runs(learn, whole)
        assert learn.best == keep_of(learn).best == whole.best
        assert type(learn.best) is type(whole.best)
    copies = [snapshot(learn)["callbacks"]["BestModelCallback"] for learn in (*gone_on, whole)]
    assert all(differing(one, copies[-1]) == [] for one in copies)


def test_the_best_so_far_is_known_from_the_first_batch_on(tmp_path):
    seen = []
    note = LambdaCallback(before_batch=lambda learn: seen.append(learn.best))
    stopped(lambda cbs: keeping([note, *cbs]), 3, 11, tmp_path)
    (best,) = {value for value in seen if value}
    seen.clear()
    resumed(lambda cbs: keeping([note, *cbs]), 3, tmp_path)
    assert best.epoch == 0
    assert seen[0] == best


@pytest.mark.parametrize("end", ["no epoch is left", "a callback has ended it"])
def test_where_nothing_is_left_to_train_the_best_weights_come_back(tmp_path, end):
    def make(cbs):
        ends = [EndIn(2, CancelFitException)] if end == "a callback has ended it" else []
        return keeping([*ends, *cbs])

    whole = uninterrupted(make, 3, tmp_path, every="epoch")
    learn = resumed(make, 3, tmp_path, every="epoch")
    assert learn.best == whole.best == keep_of(whole).best
    assert learn.best.epoch == 1
    assert_equal_runs(learn, whole)
    assert all(torch.equal(p, keep_of(whole)._copy["parameters"][name]) for name, p in learn.model.named_parameters())


def test_the_best_weights_are_saved_and_loaded_between_two_fits(tmp_path):
    saved, other = keeping([], restore=False), keeping([], restore=False)
    saved.fit(3)
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    for learn in (other, saved):
        keep_of(learn).put_back(learn)
    assert keep_of(other).best == saved.best
    assert same(state_of(other.model), state_of(saved.model))
    for learn in (saved, other):
        seed_all(0)
        learn.fit(2)
    assert_equal_runs(other, saved)
    assert other.best.epoch == 4


def test_by_another_metric_a_resume_is_refused(tmp_path):
    stopped(keeping, 2, 2, tmp_path)
    with pytest.raises(LearnerError, match="`mode` is 'min' here, 'max' saved of callback BestModelCallback"):
        resumed(partial(keeping, mode="min"), 2, tmp_path)
