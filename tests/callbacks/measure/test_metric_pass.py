"""What metrics have measured in a pass: joined with what other processes have, and empty where nothing was."""

import warnings

import pytest
import torch
import torchmetrics.classification
from sklearn.metrics import f1_score

from callbacks import accuracy
from callbacks.measure.metric_pass import MetricPass
from learner import LearnerError
from learner.ranks.job import ALONE, Job

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it still uses torch.jit.script
    import torcheval.metrics

generator = torch.Generator().manual_seed(0)
PREDS, TARGET = torch.randn(55, 2, generator=generator), torch.randint(0, 2, (55,), generator=generator)


class Together(Job):
    """One of several processes, with what the others have measured."""

    def __init__(self, *others):
        self.world, self._others = 1 + len(others), others

    def gather(self, mine, at):
        return [mine, *self._others]


def metrics():
    return {
        "accuracy": accuracy,
        "f1": torchmetrics.classification.MulticlassF1Score(2),
        "auroc": torchmetrics.classification.MulticlassAUROC(2),
        "f1 of torcheval": torcheval.metrics.MulticlassF1Score(num_classes=2),
    }


def measured(start, stop, size=8):
    one = MetricPass(metrics(), outer=None)
    for i in range(start, stop, size):
        rows = slice(i, min(i + size, stop))
        one.add(PREDS.softmax(1)[rows], TARGET[rows], len(TARGET[rows]))
    return one


class SentError(Exception):
    """Nothing comes back: the process is only listened to."""


def sent(one):
    """Return what a process gives to the others at the end of a pass."""

    class Listens(Job):
        world = 2

        def gather(self, mine, at):
            raise SentError(mine)

    with pytest.raises(SentError) as caught:
        one.results(Listens())
    return caught.value.args[0]


@pytest.mark.parametrize("stops", [(55,), (20, 55), (20, 21, 55), (0, 30, 55)])
def test_shares_of_the_data_give_what_all_of_it_gives(stops):
    starts = (0, *stops[:-1])
    whole = measured(0, 55).results(ALONE)
    others = [sent(measured(start, stop)) for start, stop in zip(starts[1:], stops[1:], strict=True)]
    got = measured(starts[0], stops[0]).results(Together(*others))
    assert got == pytest.approx(whole, abs=1e-7)
    predicted = PREDS.argmax(1)
    assert got["f1"] == pytest.approx(f1_score(TARGET, predicted, average="macro"), abs=1e-6)
    assert got["accuracy"] == pytest.approx((predicted == TARGET).double().mean().item())


@pytest.mark.parametrize("stops", [(20, 40), (0, 40), (20, 20)])
def test_what_several_had_measured_goes_on_in_one(stops):
    first, second = measured(0, stops[0]), measured(*stops)
    going_on = MetricPass.of(metrics(), MetricPass.joined([first, second]))
    for i in range(stops[1], 55):
        going_on.add(PREDS.softmax(1)[i : i + 1], TARGET[i : i + 1], 1)
    assert going_on.results(ALONE) == pytest.approx(measured(0, 55).results(ALONE), abs=1e-7)


def test_an_object_that_cannot_be_joined_is_named():
    class Count:
        def reset(self):
            self.n = 0

        def update(self, preds, target):
            self.n += len(target)

        def compute(self):
            return self.n

    def counting(n):
        one = MetricPass({"count": Count()}, outer=None)
        one.add(PREDS[:n], TARGET[:n], n)
        return one

    assert counting(3).results(ALONE) == {"count": 3}
    with pytest.raises(LearnerError, match=r"metric `count` must be one that can be joined.*Count.*merge_state"):
        counting(3).results(Together(sent(counting(2))))
