"""The state of an optimizer goes on as it was, to the bit."""

import pytest
import torch
from torch import nn

from learner import Learner, LearnerError
from learner.checkpoint.file import read_checkpoint, write_checkpoint


def test_momenta_keep_their_precision(tmp_path):
    """torch's own `load_state_dict` casts them to that of the parameters."""

    def make():
        data = {"train": [(torch.ones(2, 4).bfloat16(), torch.ones(2))]}
        return Learner(
            nn.Linear(4, 3).bfloat16(),
            data,
            lambda preds, target: preds.float().square().mean(),
            opt_func=lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        )

    saved, other = make(), make()
    saved.fit(1)
    for values in saved.opt.state.values():
        values["momentum_buffer"] = values["momentum_buffer"].float() + 1e-6
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    for one, two in zip(saved.opt.state.values(), other.opt.state.values(), strict=True):
        assert two["momentum_buffer"].dtype == torch.float32
        assert torch.equal(one["momentum_buffer"], two["momentum_buffer"])


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_a_momentum_of_another_shape_is_named_and_nothing_is_changed(tmp_path, n_epochs):
    def make():
        data = {"train": [(torch.ones(2, 4), torch.ones(2, 3))]}
        return Learner(nn.Linear(4, 3), data, nn.functional.mse_loss, opt_func=torch.optim.Adam)

    saved, other = make(), make()
    saved.fit(1)
    saved.save(tmp_path / "learn.pt")
    state = read_checkpoint(tmp_path / "learn.pt")
    state["optimizer"]["state"]["state"][0]["exp_avg"] = torch.ones(2, 2)
    write_checkpoint(tmp_path / "other.pt", state)
    other.fit(n_epochs)
    before = other.model.weight.clone()
    with pytest.raises(LearnerError, match=r"'exp_avg' of parameter 0 is \(3, 4\) here, \(2, 2\) saved"):
        other.load(tmp_path / "other.pt")
    assert torch.equal(other.model.weight, before)
