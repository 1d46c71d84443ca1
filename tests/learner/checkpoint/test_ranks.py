"""What each of several processes holds for itself, in the file that the first one writes."""

import pytest
import torch

from callbacks import MetricsCallback, accuracy
from learner import Callback, Learner
from learner.checkpoint.ranks import of_this_rank, with_all_ranks
from learner.checkpoint.resume import fit_state, options_of
from learner.checkpoint.rng import rng_state
from learner.history import Averages
from learner.ranks.job import ALONE, Job


class Others(Job):
    """A job of which this is one process, and the others have what `theirs` makes of its own."""

    def __init__(self, rank=0, world=2, theirs=lambda mine, rank: mine):
        self.rank, self.world, self.theirs = rank, world, theirs

    def gather(self, mine, at):
        return [mine if rank == self.rank else self.theirs(mine, rank) for rank in range(self.world)]


class InPass(Callback):
    """Look at the state of a fit in the middle of a training pass, as `CheckpointCallback` does."""

    def __init__(self, look):
        self.look, self.seen = look, None

    def after_batch(self, learn):
        if learn.training and learn.i == 1 and self.seen is None:
            self.seen = self.look(learn)


@pytest.fixture
def seen(make_learner):
    """Return a function that calls another one in a fit, with the learner and what its state is."""

    def seen(look):
        def states(learn: Learner):
            learn.job = ALONE
            return look(learn, fit_state(learn, 2, rng_state(learn), options_of(learn.opt)))

        spy = InPass(states)
        make_learner([MetricsCallback(accuracy=accuracy), spy]).fit(1)
        return spy.seen

    return seen


def as_job(learn, job):
    learn.job = job
    return learn


def test_one_process_writes_what_it_has(seen):
    def look(learn, state):
        return with_all_ranks(learn, state) is state, of_this_rank(learn, state) is state, "ranks" in state

    assert seen(look) == (True, True, False)


def test_of_several_each_has_a_place_and_what_was_measured_is_that_of_all(seen):
    def look(learn, state):
        joined = with_all_ranks(as_job(learn, Others(world=3)), state)
        learn.job, averages = ALONE, Averages()
        averages.load_state_dict(joined["fit"]["averages"])
        return state, joined, learn._averages.totals(), averages.totals()

    state, joined, mine, of_all = seen(look)
    assert len(joined["ranks"]) == 3
    assert joined.keys() - state.keys() == {"ranks"}
    for name in ("model", "optimizer", "loop"):
        assert joined[name] is state[name]
    (total, weight), (total_of_all, weight_of_all) = mine["loss"], of_all["loss"]
    assert weight_of_all == 3 * weight == 3 * 16
    assert total_of_all == pytest.approx(3 * total)  # three that have measured the same
    assert torch.equal(joined["rng"]["torch"], state["rng"]["torch"])  # of the first


@pytest.mark.parametrize("rank", [0, 1])
def test_as_many_go_on_each_with_its_own(seen, rank):
    def other_noise(mine, rank):
        return {**mine, "rng": {**mine["rng"], "torch": torch.tensor([rank])}}

    def look(learn, state):
        saved = with_all_ranks(as_job(learn, Others(theirs=other_noise)), state)
        own = of_this_rank(as_job(learn, Others(rank)), saved)
        learn.job = ALONE
        return saved, own

    saved, own = seen(look)
    assert own["rng"] is saved["ranks"][rank]["rng"]
    assert own["fit"]["averages"] is saved["ranks"][rank]["averages"]
    assert own["callbacks"]["MetricsCallback"] is saved["ranks"][rank]["callbacks"]["MetricsCallback"]
    assert own["model"] is saved["model"]


def test_of_another_number_the_first_takes_over_and_others_begin_with_nothing(seen):
    def look(learn, state):
        saved = with_all_ranks(as_job(learn, Others(world=2)), state)
        before = torch.get_rng_state()
        owns = [of_this_rank(as_job(learn, Others(rank, world=3)), saved) for rank in range(3)]
        is_alone = of_this_rank(as_job(learn, ALONE), saved)
        return saved, owns, is_alone, torch.equal(before, torch.get_rng_state())

    saved, (first, *others), is_alone, is_undisturbed = seen(look)
    assert first is saved  # what all have measured
    assert is_alone is saved
    for own in others:
        assert own["fit"]["averages"] == {}
        assert own["callbacks"]["MetricsCallback"] is None
    noise = [own["rng"]["torch"] for own in (first, *others)]
    assert not any(torch.equal(noise[i], noise[k]) for i, k in [(0, 1), (0, 2), (1, 2)])
    assert is_undisturbed


def test_the_noise_of_a_new_process_is_a_function_of_where_it_goes_on(seen):
    def look(learn, state):
        job = Others(2, world=3)
        noise = [of_this_rank(as_job(learn, job), state)["rng"]["torch"] for _ in range(2)]
        moved = {**state, "loop": {**state["loop"], "n_samples": 1}}
        noise.append(of_this_rank(learn, moved)["rng"]["torch"])
        learn.job = ALONE
        return noise

    one, again, elsewhere = seen(look)
    assert torch.equal(one, again)
    assert not torch.equal(one, elsewhere)


def test_what_lies_between_two_fits_is_the_same_for_all():
    state = {"model": {}, "ranks": [{}, {}]}
    learn = type("Fake", (), {"job": Others(1)})()
    assert of_this_rank(learn, state) is state
