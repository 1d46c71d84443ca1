"""A training that is killed, by SIGKILL at any moment, ends as one that was left alone, bit for bit.

A sample of what `python -m tests.kill` does. A case that fails is repeated by `-k` with its number.
"""

import random

import pytest

from tests.kill.harness import SETTINGS, Case, at_each_batch, examine, pool, sample
from tests.kill.training import Kill, Setting

pytestmark = pytest.mark.serial  # starts many processes of its own, which all cases share
SEEDS = range(10)


def sampled(seed: int) -> Case:
    rng = random.Random(seed)
    return rng.choice(sample(rng.choice(SETTINGS), rng))


CASES = {
    **{f"{seed}": sampled(seed) for seed in SEEDS},
    "at each batch": at_each_batch(Setting()),
    "before the first checkpoint": Case(Setting(every="epoch"), (Kill("fetched", 14),)),
    "when it has ended": Case(Setting(every="epoch"), (Kill("end", 0),)),
    "a moving average": Case(
        Setting(average="ema"), (Kill("fetched", 15), Kill("stepped", 24), Kill("after a pass", 30))
    ),
    "a mean of the weights": Case(
        Setting(average="swa"), (Kill("fetched", 31), Kill("after a pass", 39), Kill("end", 0))
    ),
    "a scale that moves": Case(
        Setting(precision="fp16"), (Kill("backward", 4), Kill("during the save", 12), Kill("fetched", 21))
    ),
    "a second look at the loss": Case(
        Setting(optimizer="sam", accumulate=1), (Kill("backward", 5), Kill("fetched", 22))
    ),
    "a closure": Case(Setting(optimizer="lbfgs", accumulate=1), (Kill("stepped", 7), Kill("fetched", 20))),
    "two optimizers": Case(Setting(optimizer="two"), (Kill("backward", 8), Kill("during the save", 23))),
    "so many steps": Case(Setting(length="steps"), (Kill("fetched", 6), Kill("stepped", 19), Kill("after a pass", 30))),
    "means over labels": Case(Setting(weight="labels"), (Kill("backward", 8), Kill("fetched", 25))),
    "a language model by parts": Case(Setting(example="bptt"), (Kill("fetched", 3), Kill("stepped", 9))),
    "a penalty on gradients": Case(Setting(example="wgan_gp"), (Kill("fetched", 4), Kill("stepped", 11))),
    "a GAN": Case(Setting(example="gan"), (Kill("backward", 5), Kill("during the save", 10))),
    "a new Python": Case(Setting(workers=2, every=7), (Kill("fetched", 23),), is_fresh=True),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Have all cases examined beside the tests, which wait for theirs."""
    with pool(2) as executor:
        yield {name: executor.submit(examine, case, tmp_path_factory.mktemp("kill")) for name, case in CASES.items()}
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_ends_as_if_nothing_had_happened(results, name):
    result = results[name].result()
    assert result.differing == (), CASES[name]
    assert result.n_kills or name.isdigit()  # one that is killed at a random moment may have ended


def test_workers_that_have_begun_go_with_the_training(results):
    assert CASES["a new Python"].setting.workers
    assert results["a new Python"].result().n_left == 0
