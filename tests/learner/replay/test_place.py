"""What a place holds of a learner, and what of the learner it takes over later."""

import torch
from torch import nn

from callbacks import CheckpointCallback, EMACallback
from learner import Callback
from learner.checkpoint.rng import rng_state
from learner.replay.place import Place
from tests.resuming import differing, tiny_learner


class TakeDown(Callback):
    """Take the place down after the fourth batch."""

    order = -(10**9)

    def before_epoch(self, learn):
        self.rng = rng_state(learn)

    def cleanup_batch(self, learn):
        if learn.training and learn.i == 3:
            self.place = Place.taken_down(learn, 4, self.rng, [])


def place_and_learner(tmp_path):
    learn, take = tiny_learner([CheckpointCallback(tmp_path), EMACallback(0.9)]), TakeDown()
    learn.fit(1, cbs=take)
    return take.place, learn


def test_a_learner_stands_there_again(tmp_path):
    place, learn = place_and_learner(tmp_path)
    place.stand(learn)
    assert learn.n_steps == 4
    state = place.state["model"]["state"]
    assert all(torch.equal(value, state[name]) for name, value in learn.model.state_dict().items())
    assert differing(rng_state(learn), place.state["rng"]) == []


def test_changes_are_those_of_weights_and_optimizer_and_as_a_whole_of_all(tmp_path):
    place, learn = place_and_learner(tmp_path)
    place.stand(learn)
    with torch.no_grad():
        learn.model[0].weight.zero_()
        learn.model[1].running_mean.zero_()
    learn.opt.param_groups[0]["lr"] = 0.5
    torch.rand(3)
    assert differing(place.with_changes(learn).state, place.state) == [
        "['model']['state']['0.weight']",
        "['optimizer']['state']['param_groups'][0]['lr']",
    ]
    assert differing(place.with_changes(learn, is_whole=True).state, place.state) == [
        "['model']['state']['0.weight']",
        "['model']['state']['1.running_mean']",
        "['optimizer']['state']['param_groups'][0]['lr']",
        "['rng']['torch']",
    ]


def test_the_state_of_a_callback_that_is_gone_is_left_out_and_a_new_one_begins_anew(tmp_path):
    place, learn = place_and_learner(tmp_path)
    learn.remove_cb(learn.cbs[-1])
    learn.add_cb(EMACallback(0.5))
    place.stand(learn)
    assert learn.cbs[-1].n_updates == 0
    assert isinstance(learn.model[0], nn.Linear)
    learn.fit(2, resume=place.resumption(learn, tmp_path))
    assert (learn.n_steps, learn.cbs[-1].n_updates) == (12, 8)
