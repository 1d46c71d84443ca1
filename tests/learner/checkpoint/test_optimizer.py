"""The state of an optimizer goes on as it was, to the bit."""

import torch
from torch import nn

from learner import Learner


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
