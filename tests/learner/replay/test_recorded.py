"""What callbacks have recorded, in a file and back."""

import pytest
from torch import nn

from callbacks import ActivationStats, CheckpointCallback, GradientStats, RecorderCallback
from learner import LearnerError
from learner.replay import load_recorded, save_recorded
from tests.resuming import tiny_learner


def recorder():
    return RecorderCallback(loss=lambda learn: learn.loss)


def test_callbacks_that_are_made_anew_have_it_with_their_plots(tmp_path):
    cbs = [recorder(), ActivationStats(), GradientStats()]
    learn = tiny_learner(cbs)
    learn.model.insert(1, nn.Tanh())
    learn.model[4].weight.requires_grad_(False)
    learn.fit(2)
    save_recorded(tmp_path / "recorded.pt", cbs)
    anew = [recorder(), [ActivationStats(), GradientStats()]]
    values, stats, gradients = load_recorded(tmp_path / "recorded.pt", anew)
    assert values.values == cbs[0].values
    assert stats.saturation("1").equal(cbs[1].saturation("1"))
    assert repr(stats) == repr(cbs[1])
    for mine, theirs in ((stats, cbs[1]), (gradients, cbs[2])):
        first, second = mine.dead_chart(), theirs.dead_chart()
        titles = [[axis.get_title() for axis in figure.axes] for figure in (first, second)]
        assert titles[0] == titles[1]


def test_a_file_of_another_kind_and_other_callbacks_are_one_error(tmp_path):
    learn = tiny_learner([CheckpointCallback(tmp_path / "run"), cb := recorder()])
    learn.fit(1)
    save_recorded(tmp_path / "recorded.pt", cb)
    with pytest.raises(LearnerError, match="must be a file of what callbacks have recorded, got one of another kind"):
        load_recorded(tmp_path / "run" / "step-00000006.pt", recorder())
    with pytest.raises(LearnerError, match=r"the callbacks are \['ActivationStats \(0\)'\] here, \['RecorderCallback"):
        load_recorded(tmp_path / "recorded.pt", ActivationStats())
    with pytest.raises(LearnerError, match=r"the values are \['other'\] here, \['loss'\] saved"):
        load_recorded(tmp_path / "recorded.pt", RecorderCallback(other=lambda learn: 0))
