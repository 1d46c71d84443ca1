"""An optimizer that shows its groups is in all else the one that it was made of."""

import copy
import pickle

import torch
from torch import nn

from learner.optim import param_groups
from learner.optim.table import showing


def make():
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    model[0].bias.requires_grad_(False)
    return param_groups(torch.optim.AdamW, no_decay="auto", lr={"0": 0.1}, weight_decay=0.05)(model, lr=0.01)


def test_names_parameters_rate_and_decay_as_text_and_in_a_notebook():
    rows = [
        ["names", "parameters", "lr", "weight_decay"],
        ["0.weight", "32", "0.001", "0.05"],
        ["0.bias", "8, 8 frozen", "0.001", "0"],
        ["1.weight, 1.bias, 2.bias", "18", "0.01", "0"],
        ["2.weight", "16", "0.01", "0.05"],
    ]
    first, *lines = repr(make()).splitlines()
    assert first == "AdamW"
    assert [[cell.strip() for cell in line.split("  ") if cell] for line in lines] == rows
    html = make()._repr_html_()
    assert [html.count(f">{cell}<") > 0 for row in rows for cell in row] == [True] * 20


def test_many_names_are_counted_and_a_rate_that_changes_is_seen():
    opt = showing(torch.optim.SGD)([(f"p{i}", nn.Parameter(torch.zeros(1))) for i in range(5)], lr=torch.tensor(0.5))
    assert "p0, p1, p2 and 2 more  5           0.5  0" in repr(opt)
    opt.param_groups[0]["lr"].fill_(0.25)
    assert "0.25" in repr(opt)
    lbfgs = showing(torch.optim.LBFGS)([nn.parameter.UninitializedParameter()], lr=1)
    assert "1 without names  not made yet  1" in repr(lbfgs)


def test_it_is_an_optimizer_of_its_class_by_name_and_by_kind():
    opt = make()
    assert isinstance(opt, torch.optim.AdamW)
    assert (type(opt).__name__, type(opt).__module__) == ("AdamW", torch.optim.AdamW.__module__)
    assert type(opt) is showing(torch.optim.AdamW)


def test_it_is_copied_and_pickled_whole():
    opt = make()
    for p in (p for group in opt.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    opt.step()
    for again in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert repr(again) == repr(opt)
        assert type(again) is type(opt)
        old, new = opt.state_dict()["state"], again.state_dict()["state"]
        assert all(torch.equal(old[i][key], new[i][key]) for i in old for key in old[i])
        again.step()
