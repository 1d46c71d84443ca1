"""The tree of errors, and which of two ends more."""

import pytest

import learner
from learner import errors
from learner.errors import ERROR, CancelException, severity

CANCELS = [
    learner.CancelStepException,
    learner.CancelBatchException,
    learner.CancelEpochException,
    learner.CancelFitException,
]


@pytest.mark.parametrize("cancel", CANCELS)
def test_a_cancel_is_control_flow_and_no_learner_error(cancel):
    assert issubclass(cancel, CancelException)
    assert not issubclass(cancel, learner.LearnerError)
    assert not issubclass(cancel, StopIteration | KeyboardInterrupt)
    assert not any(issubclass(cancel, other) for other in CANCELS if other is not cancel)
    assert cancel.__doc__


def test_severity_goes_by_what_is_ended():
    class Mine(learner.CancelEpochException):
        """A Cancel of one's own ends what its base ends."""

    given = [None, *(cancel() for cancel in CANCELS), ValueError(), KeyboardInterrupt()]
    assert [severity(error) for error in given] == [-1, 0, 1, 2, 3, ERROR, ERROR]
    assert severity(Mine()) == severity(learner.CancelEpochException())


def test_the_drawing_of_the_tree_names_every_class():
    classes = [n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == errors.__name__]
    assert len(classes) == 8
    assert [name for name in classes if name not in errors.__doc__] == []
