"""The table of layers."""

import copy

import pytest
import torch
from torch import nn

from learner import Learner


class Net(nn.Module):
    """Own parameters beside a child, a layer that is used twice, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.norm = nn.BatchNorm1d(8)
        self.head, self.unused = nn.Linear(8, 3), nn.Linear(5, 5, bias=False)
        self.head.weight.requires_grad_(False)

    def forward(self, x):
        return self.head(self.norm(self.body(x * self.scale)))


def test_rows_are_layers_with_shapes_and_parameters(make_learner):
    summary = make_learner(model=Net()).summary()
    assert [tuple(row) for row in summary.rows] == [
        ("(model)", "Net", "(16, 3)", 4, 4),
        ("body.0", "Linear", "(16, 8)", 40, 40),
        ("body.1", "ReLU", "(16, 8)", 0, 0),
        ("norm", "BatchNorm1d", "(16, 8)", 16, 16),
        ("head", "Linear", "(16, 3)", 27, 3),
        ("unused", "Linear", "not run", 25, 25),
    ]
    assert (summary.n_parameters, summary.n_trainable) == (112, 88)


def test_shared_parameters_are_counted_once_in_the_total(make_learner):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    summary = make_learner(model=model).summary()
    assert [row.n_parameters for row in summary.rows] == [20, 0, 20, 15]
    assert summary.n_parameters == 20 + 4 + 15


def test_outputs_that_are_no_tensor_are_told_by_their_parts(make_learner):
    class Rnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5)

        def forward(self, x):
            return self.lstm(x[None])[0][0]

    (row,) = make_learner(model=Rnn()).summary().rows
    assert (row.name, row.output) == ("lstm", "[(1, 16, 5), [(1, 16, 5), (1, 16, 5)]]")


def test_a_model_that_was_compiled_is_told_by_its_own_layers(make_learner):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    compiled = torch.compile(model, backend="eager")
    compiled(torch.zeros(2, 4))
    assert make_learner(model=compiled).summary().rows == make_learner(model=model).summary().rows


def test_it_prints_and_shows(make_learner):
    summary = make_learner(model=nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 3))).summary()
    assert repr(summary).splitlines() == [
        "layer  class   output      parameters  trained",
        "0      Linear  (16, 1000)  5,000       5,000",
        "1      Linear  (16, 3)     3,003       3,003",
        "8,003 parameters, 8,003 of them trained",
    ]
    html = summary._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>(16, 1000)</td>" in html
    assert "8,003 parameters" in html


@pytest.mark.parametrize("run", [Learner.summary, lambda learn: [learn.fit(1), learn.summary()]])
def test_it_leaves_no_trace(make_learner, run):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    learn = make_learner(model=model)
    if run is not Learner.summary:
        learn.fit(1)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    metrics, history = copy.deepcopy(learn.metrics), learn.history.to_dict()
    learn.summary()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert (learn.metrics, learn.history.to_dict(), learn.batch) == (metrics, history, None)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_hooks_are_gone_after_an_error_too(make_learner):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_learner(model=model).summary()
    assert not any(module._forward_hooks for module in model.modules())


def test_it_works_without_a_train_loader_and_without_a_loss(make_learner, dls):
    learn = make_learner(dls={"infer": [torch.ones(2, 4)]}, loss_f=None)
    assert learn.summary().rows[-1].output == "(2, 3)"


# torch's own, of what it means to drop
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_part_is_there_without_what_it_gives(make_learner):
    model = nn.Sequential(torch.jit.script(nn.Linear(4, 8)), nn.Linear(8, 3))
    rows = make_learner(model=model).summary().rows
    assert [(row.name, row.output, row.n_parameters) for row in rows] == [("0", "scripted", 40), ("1", "(16, 3)", 27)]
