"""The table of orders, in the docstring of `Callback` and in the documents, is what happens in a step."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import callbacks
from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    EMACallback,
    GradientStats,
    LossWeightCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    SchedulerCallback,
    accuracy,
)
from learner import Callback, Learner

DOCUMENT = (Path(__file__).parents[1] / "docs" / "optimizer_step.md").read_text()
OF_A_STEP = ("around_get_loss", "after_loss", "around_backward", "after_backward", "around_step", "after_step")
CLASSES = {
    name: cls
    for name in callbacks.__all__
    if isinstance(cls := getattr(callbacks, name), type) and hasattr(cls, "order")
}


def rows(text: str) -> dict[int, str]:
    """Return the lines of a table by the number in their first column."""
    return {int(row[1]): row[2] for row in re.finditer(r"^ *\| (-?\d+) \| (.*) \|$", text, flags=re.MULTILINE)}


def test_the_two_tables_have_the_same_numbers():
    assert list(rows(Callback.__doc__)) == list(rows(DOCUMENT)) == sorted(rows(DOCUMENT))


def test_each_callback_of_the_document_has_the_order_of_its_row():
    found = {}
    for order, row in rows(DOCUMENT).items():
        for name, own in re.findall(r"`(\w+)`(?: \((-?\d+)\))?", row.split("|")[0]):
            found[name] = (CLASSES[name].order, int(own or order))
    assert all(here == said for here, said in found.values()), found
    assert len(found) > 12


@pytest.mark.parametrize("name", CLASSES)
def test_each_callback_that_touches_a_step_stands_at_a_number_of_the_table(name):
    touches = [s for s in OF_A_STEP if getattr(CLASSES[name], s, None) not in (None, getattr(Callback, s, None))]
    only_listens = touches == ["after_loss"] and name.startswith(("NaN", "Terminate"))
    if touches and not only_listens:
        assert CLASSES[name].order in rows(Callback.__doc__)


class Yours(Callback):
    """A callback as a user writes it, that listens to all of a step."""

    def after_backward(self, learn): ...

    def after_step(self, learn): ...

    def around_step(self, learn, action):
        action()


def record(cb, trace):
    """Have a callback write down which of its handlers are called."""

    def recorded(signal, method):
        def handler(learn, *action):
            trace.append((signal, type(cb)))
            return method(learn, *action)

        return handler if signal.startswith("around_") else (lambda learn: handler(learn))

    for signal in OF_A_STEP:
        method = getattr(cb, signal, None)
        if method is not None and getattr(method, "__func__", None) is not getattr(Callback, signal, cb):
            setattr(cb, signal, recorded(signal, method))


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_step_with_everything_on_is_in_the_order_of_the_table(is_reversed):
    cbs = [
        AccumulateCallback(2),
        LossWeightCallback(weight_of=lambda learn: len(learn.xb)),
        MixedPrecisionCallback("fp16", init_scale=2.0),
        ClipGradientCallback(1.0),
        MetricsCallback(accuracy=accuracy),
        Yours(),
        EMACallback(),
        SchedulerCallback(CosineAnnealingLR),
        GradientStats(),
    ]
    trace = []
    for cb in cbs:
        record(cb, trace)
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator)) for _ in range(2)]
    opt_func = partial(torch.optim.SGD, momentum=0.9)
    learn = Learner(nn.Linear(3, 2), {"train": data}, cross_entropy, 0.1, opt_func, cbs[::-1] if is_reversed else cbs)
    learn.fit(1)
    assert learn.n_steps == 1
    around_backward, after_backward, around_step, after_step = (
        [cls for heard, cls in trace if heard == signal] for signal in OF_A_STEP[2:]
    )
    assert (
        around_backward == [AccumulateCallback, MixedPrecisionCallback] * 2
    )  # one batch accumulates, one makes a step
    assert after_backward[0] is AccumulateCallback  # which lets nobody else hear of the first batch
    for heard in (after_backward[1:], around_step, after_step):
        assert [cls.order for cls in heard] == sorted(cls.order for cls in heard)
    assert [cls for cls in after_backward[1:] if cls.order < 40] == [
        AccumulateCallback,
        MixedPrecisionCallback,
        ClipGradientCallback,
        Yours,
    ]
    assert around_step[0] is Yours
    assert {ClipGradientCallback, Yours, EMACallback, SchedulerCallback} <= set(after_step)
    signals = [signal for signal, _ in trace if signal in OF_A_STEP[2:]]
    assert list(dict.fromkeys(signals[signals.index("around_step") :])) == ["around_step", "after_step"]
