"""What is trained and how, as the learner has it."""

import json

import pytest
import torch

from callbacks import LambdaCallback
from callbacks.loggers.fit_info import describe_end, describe_fit
from learner import CancelFitException


def test_it_says_what_is_trained_as_plain_data(make_learner):
    described = []
    look = LambdaCallback(before_fit=lambda learn: described.append(describe_fit(learn)))
    make_learner(look, opt_func=torch.optim.Adam, lr=0.5).fit(2)
    assert json.loads(json.dumps(described)) == [
        {
            "model": "Sequential",
            "n_parameters": 4 * 8 + 8 + 8 * 3 + 3,
            "device": "cpu",
            "n_trainable": 4 * 8 + 8 + 8 * 3 + 3,
            "loss": "cross_entropy",
            "optimizer": "Adam",
            "lr": [0.5],
            "n_epochs": 2,
            "steps": None,
            "n_batches": {"train": 3, "valid": 2},
            "callbacks": ["LambdaCallback"],
        }
    ]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, {"status": "finished"}),
        (CancelFitException("enough"), {"status": "finished"}),
        (KeyboardInterrupt(), {"status": "interrupted"}),
        (SystemExit(1), {"status": "interrupted"}),
        (ValueError("wrong"), {"status": "failed", "error": "ValueError: wrong"}),
    ],
)
def test_it_says_how_a_fit_ended(error, end):
    assert describe_end(error) == end
