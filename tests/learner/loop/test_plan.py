"""The table of who is called when."""

import pytest

from learner import Callback, Learner
from learner.loop.plan import FIRING_ORDER


class Early(Callback):
    order = -10

    def before_fit(self, learn):
        """Listen."""

    def cleanup_fit(self, learn):
        """Listen."""

    def around_predict(self, learn, action):
        action()


class Late:
    order = 10

    def before_fit(self, learn):
        """Listen."""

    def cleanup_fit(self, learn):
        """Listen."""

    def step(self, learn):
        learn.opt.step()

    def around_predict(self, learn, action):
        action()


class Named(Learner):
    signals = ("after_a_signal_with_a_very_long_name",)


class Hears(Callback):
    def after_a_signal_with_a_very_long_name(self, learn):
        """Listen."""


def test_plan_prints_who_is_called_in_order(make_learner, capsys):
    make_learner([Late(), Early()]).plan()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["before_fit", "Early → Late"],
        ["before_epoch"],
        ["before_batch"],
        ["predict", "around: Early → around: Late → Learner"],
        ["after_predict"],
        ["get_loss", "Learner"],
        ["after_loss"],
        ["backward", "Learner"],
        ["after_backward"],
        ["step", "Late"],
        ["after_step"],
        ["zero_grad", "Learner"],
        ["after_batch"],
        ["cleanup_batch"],
        ["after_epoch"],
        ["cleanup_epoch"],
        ["after_fit"],
        ["cleanup_fit", "Late → Early"],
    ]
    assert [line for line in lines if line != line.rstrip()] == []


def test_plan_follows_what_is_added_and_removed(make_learner, capsys):
    learn, late = make_learner(), Late()
    with learn.added(late):
        learn.plan()
    learn.plan()
    assert capsys.readouterr().out.count("Late") == 4


def test_own_signals_come_last(make_learner, capsys):
    base = make_learner()
    Named(base.model, base.dls, base.loss_f, cbs=Hears()).plan()
    assert capsys.readouterr().out.splitlines()[-1].split() == ["after_a_signal_with_a_very_long_name", "Hears"]


def test_the_notebook_repr_is_the_same_table(make_learner):
    html = make_learner([Late(), Early()])._repr_html_()
    assert html.count("<tr>") == len(FIRING_ORDER) + 1
    assert "Late → Early" in html
    assert "around: Early → around: Late → Learner" in html


@pytest.mark.parametrize("n_batches", [1, 3])
def test_the_order_of_the_plan_is_that_of_a_recorded_trace(make_learner, dls, n_batches):
    trace = []

    class Traced(Learner):
        def callback(self, signal):
            trace.append(signal)
            super().callback(signal)

    for action in ("predict", "get_loss", "backward", "step", "zero_grad"):

        def act(self, action=action):
            trace.append(action)
            getattr(Learner, action)(self)

        setattr(Traced, action, act)
    names = [name for name in FIRING_ORDER if name.startswith(("before_", "cleanup_"))]
    cb = Callback()
    for name in names:
        setattr(cb, name, lambda learn, name=name: trace.append(name))
    base = make_learner()
    Traced(base.model, {"train": list(dls.train)[:n_batches]}, base.loss_f, cbs=cb).fit(1)
    assert tuple(dict.fromkeys(trace)) == FIRING_ORDER


def test_the_plan_shows_callbacks_that_are_not_there_yet(make_learner, capsys):
    class Later(Callback):
        def after_batch(self, learn): ...

    learn = make_learner()
    learn.plan(cbs=Later())
    assert "after_batch     Later\n" in capsys.readouterr().out
    assert learn.cbs == ()
