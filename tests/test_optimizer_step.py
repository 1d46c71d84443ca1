"""One optimizer step with everything around it: any set of callbacks, in any order, against a loop by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import LearnerError
from tests.step_by_hand import OPTIMIZERS, Parts, by_hand, callbacks_of, learner

PARTS = st.builds(
    Parts,
    precision=st.sampled_from([None, "bf16", "fp16"]),
    init_scale=st.sampled_from([2.0**10, 2.0**16, 2.0**24, 3000.0]),
    accumulate=st.none() | st.integers(1, 9),
    max_norm=st.none() | st.sampled_from([0.05, 0.5, 100.0]),
    is_cosine=st.booleans(),
    is_weighted=st.booleans(),
    rho=st.none() | st.sampled_from([0.05, 1.0]),
    decay=st.none() | st.sampled_from([0.0, 0.5, 0.999]),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
)


def enemies(parts: Parts) -> list[set[str]]:
    """Return the pairs of callbacks that cannot go together."""
    sam, found = "SAMCallback", []
    if parts.rho is not None:
        found += [{sam, "AccumulateCallback"}] if (parts.accumulate or 1) > 1 else []
        found += [{sam, "ClipGradientCallback"}] if parts.max_norm is not None else []
        found += [{sam, "MixedPrecisionCallback"}] if parts.precision == "fp16" else []
    return found


@settings(max_examples=60, deadline=None)
@given(parts=PARTS, data=st.data())
def test_any_set_of_callbacks_in_any_order_equals_the_loop_by_hand_or_names_the_two_that_do_not_go_together(
    parts, data
):
    cbs = callbacks_of(parts)
    learn = learner(parts, data.draw(st.permutations(list(cbs.values()))))
    if pairs := enemies(parts):
        with pytest.raises(LearnerError, match="SAMCallback must") as caught:
            learn.fit(2)
        named = {name for name in cbs if name in str(caught.value)}
        assert named in pairs
        return
    learn.fit(2)
    done = by_hand(parts, 2)
    assert all(map(torch.equal, learn.model.parameters(), done.model.parameters()))
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert (learn.n_steps, learn.n_skipped) == (done.n_steps, done.n_skipped)
    assert learn.history.to_dict()["train/loss"] == pytest.approx(done.means, rel=1e-6)
    if parts.is_cosine:
        assert cbs["SchedulerCallback"].scheduler.state_dict() == done.scheduler.state_dict()
    if parts.decay is not None:
        assert all(map(torch.equal, cbs["EMACallback"].average.values(), done.average)) or not done.n_steps
    if parts.precision:
        assert cbs["MixedPrecisionCallback"].scale == done.scale


def test_the_loop_by_hand_knows_skipped_steps():
    """What the loop above compares with is worth something only if it skips."""
    done = by_hand(Parts("fp16", 2.0**24, accumulate=2, is_cosine=True), 2)
    assert 0 < done.n_skipped < 8
    assert done.n_steps + done.n_skipped == 8
