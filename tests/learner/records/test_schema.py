"""Class names, and class ids that have none."""

import numpy as np
import pytest

from learner.records.schema import CategoricalLabel, checked_ids, checked_schemas


def test_a_label_keeps_its_name_and_its_classes_in_order() -> None:
    label = CategoricalLabel("label", ["dog", "cat"])

    assert (label.name, label.classes) == ("label", ("dog", "cat"))
    assert label == CategoricalLabel("label", ("dog", "cat")) != CategoricalLabel("label", ["cat", "dog"])
    assert hash(label) == hash(CategoricalLabel("label", ("dog", "cat")))


def test_a_mapping_of_ids_to_names_is_put_in_the_order_of_the_ids() -> None:
    assert CategoricalLabel("label", {2: "fox", 0: "cat", 1: "dog"}).classes == ("cat", "dog", "fox")


def test_a_label_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="classes"):
        CategoricalLabel("label", ["cat"]).classes = ("dog",)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "classes", "error", "message"),
    [
        (["cat", "dog"], ["cat"], TypeError, r"`name` must be a string, got \['cat', 'dog'\]"),
        ("label", "cat", TypeError, "`classes` must be a list of names or a mapping .*, got 'cat'"),
        ("label", 3, TypeError, "`classes` must be a list of names or a mapping .*, got 3"),
        ("label", [0, 1], TypeError, "`classes` must be names, got 0"),
        ("label", [], ValueError, "`classes` must hold at least one name, got none"),
        ("label", ["cat", "dog", "cat"], ValueError, "`classes` must be different names, got 'cat' twice"),
        ("label", {1: "cat", 2: "dog"}, ValueError, r"`classes` must have the ids 0 to 1 without gaps, got \[1, 2\]"),
    ],
)
def test_what_is_no_label_is_refused(name: object, classes: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CategoricalLabel(name, classes)  # type: ignore[arg-type]


def test_schemas_are_copied() -> None:
    given = {"label": CategoricalLabel("label", ["cat"])}
    schemas = checked_schemas(given)
    given.clear()

    assert list(schemas) == ["label"]
    assert checked_schemas(None) == {}


@pytest.mark.parametrize(
    ("schemas", "message"),
    [
        ([CategoricalLabel("label", ["cat"])], "`column_schemas` must be a mapping .*, got list"),
        ({0: CategoricalLabel("label", ["cat"])}, "`column_schemas` must have strings as names of columns, got 0"),
        ({"label": ["cat", "dog"]}, r"`column_schemas\['label'\]` must be a CategoricalLabel, got \['cat', 'dog'\]"),
    ],
)
def test_what_are_no_schemas_is_refused(schemas: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checked_schemas(schemas)


def test_the_error_calls_the_argument_by_its_name() -> None:
    with pytest.raises(TypeError, match="`override_column_schemas` must be a mapping"):
        checked_schemas(3, "override_column_schemas")


@pytest.mark.parametrize("ids", [[0, 1, 1], [False, True], []])
def test_ids_with_names_pass(ids: list[int]) -> None:
    assert checked_ids("label", np.array(ids), CategoricalLabel("label", ["cat", "dog"])).tolist() == ids


@pytest.mark.parametrize(("ids", "wrong"), [([0, 2, 1], 2), ([0, -1], -1), ([-100, 5], -100)])
def test_an_id_without_a_name_is_an_error_that_tells_column_id_and_number_of_names(ids: list[int], wrong: int) -> None:
    with pytest.raises(ValueError, match=f"`label` must hold class ids from 0 to 1, got {wrong}; .* 2 names"):
        checked_ids("label", np.array(ids), CategoricalLabel("animal", ["cat", "dog"]))


@pytest.mark.parametrize("ids", [[0.0, 1.0], ["cat"], [[0, 1]]])
def test_what_are_no_ids_is_refused(ids: list[object]) -> None:
    with pytest.raises(TypeError, match="`label` must hold class ids, one per sample, got"):
        checked_ids("label", np.array(ids), CategoricalLabel("label", ["cat", "dog"]))
