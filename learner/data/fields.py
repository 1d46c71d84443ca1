"""Which named fields of a batch go into a model, and which is the target: decided once for a set of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from learner.data.batch import describe, fields_of
from learner.data.signature import ForwardSignature, nearest
from learner.errors import LearnerError

TARGET_NAMES = ("targets", "target", "labels", "label", "y")
SAMPLE_ID = "example_id"  # says which sample it is, as records keep it; never a target


class FieldPlan(NamedTuple):
    """Names of the inputs, and of the target or None.

    Attributes:
        inputs: the fields that go in by name.
        target: the field that is the target.
        is_single: whether there is one input, forward's first argument: it goes in as it is.
        is_whole: whether the mapping itself goes in.
        is_by_position: whether the inputs go in by position, since `forward` takes one of them in no other way.
    """

    inputs: tuple[str, ...]
    target: str | None
    is_single: bool
    is_whole: bool
    is_by_position: bool = False

    def take(self, batch: Any, fields: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return what goes in and the target."""
        if self.is_whole:
            xb = as_argument(batch)
        elif self.is_single:
            xb = as_argument(fields[self.inputs[0]])
        elif self.is_by_position:
            xb = tuple(fields[name] for name in self.inputs)
        else:
            xb = {name: fields[name] for name in self.inputs}
        return xb, None if self.target is None else fields[self.target]


def as_argument(value: Any) -> Any:
    """Return a value as the one argument of a call, where a tuple stands for several and a dict for named ones."""
    return (value,) if isinstance(value, tuple | Mapping) else value


def plan_fields(
    takes: ForwardSignature,
    fields: Mapping[str, Any],
    target: str | None,
    *,
    takes_target: bool,
    needs_target: bool,
    trained_on: str | None = None,
) -> FieldPlan:
    """Match names with what `forward` takes; the target is what is said, what is called so, or what is left.

    Of the fields that `forward` does not take, the one that is called like a target is the target. If none of them is,
    the target is the field called like one that goes in as well. The only field that is left is the target where
    `forward` has no argument called like a target, and a target is needed. `example_id` is never the target. Where
    nothing is left there is none.

    Args:
        takes: what `forward` takes.
        fields: a batch.
        target: the field that is said to be the target, or None.
        takes_target: whether the model gets the target as well.
        needs_target: whether it is an error if the target cannot be told.
        trained_on: the field that was the target in training; no other one is taken then.

    Raises:
        LearnerError: if nothing fits, something is missing, or the target may be several.
    """
    if target is not None and target not in fields:
        raise no_target_key(target, fields)
    inputs = [name for name in fields if name in takes.names and (takes_target or name != target)]
    is_whole = not inputs and takes.takes_whole_mapping
    left = [name for name in fields if name not in inputs]
    if trained_on is not None and target is None:
        if trained_on not in fields and needs_target and not takes_target:
            raise no_trained_target(trained_on, fields)
        target = trained_on if trained_on in fields else None
    elif target is None:
        target = _find_target(takes, fields, left, is_open=takes_target or is_whole, needs_target=needs_target)
    if takes.takes_any_name:
        inputs += [name for name in left if takes_target or name != target]
    if not is_whole:
        _require_inputs(takes, fields, inputs, left)
    is_by_position = not set(inputs).isdisjoint(takes.positional_only)
    if is_by_position:
        inputs = _in_their_places(takes, fields, inputs)
    return FieldPlan(tuple(inputs), target, inputs == takes.by_position[:1], is_whole, is_by_position)


def _in_their_places(takes: ForwardSignature, fields: Mapping[str, Any], inputs: list[str]) -> list[str]:
    """Return the inputs in the order of the arguments, where some can be given by position alone."""
    places = takes.by_position[: len(inputs)]
    if set(places) != set(inputs):
        raise LearnerError(
            f"the model must take what the batch holds, but forward takes {takes}, of which {', '.join(inputs)} cannot "
            f"all be given by position: {describe(fields)}. Take the `/` out of forward's signature, or make what goes "
            f"in by `Predictor(model, preprocess_fn=...)`."
        )
    return places


def no_target_key(name: str, batch: Any) -> LearnerError:
    """Return the error that says that a batch has no such field."""
    fields = fields_of(batch) or {}
    hint = nearest(name, fields)
    return LearnerError(f"`target_key` must be a key of the batch, got {name!r}; it is {describe(batch)}{hint}.")


def no_trained_target(name: str, batch: Any) -> LearnerError:
    """Return the error that says that a batch lacks the field that was the target in training."""
    return LearnerError(
        f"the target must be {name!r} in every loader, since training used that, got a batch without it: "
        f"{describe(batch)}; add it, or call the loader 'infer...' if it has no targets. Where the loaders differ on "
        f"purpose, say what the target is with `Predictor(model, target_fn=...)`."
    )


def _find_target(
    takes: ForwardSignature, fields: Mapping[str, Any], left: list[str], *, is_open: bool, needs_target: bool
) -> str | None:
    """Return the target's name; where all fields go in (`is_open`), one that is called so, and none will do."""
    if not left and not is_open:
        return None
    left = [name for name in left if name != SAMPLE_ID]
    called_so = [name for name in TARGET_NAMES if name in (fields if is_open else left)]
    if len(called_so) == 1:
        return called_so[0]
    candidates = called_so or ([] if takes.takes_any_name else left)
    if not (called_so or is_open or takes.takes_any_name):
        taken = [name for name in TARGET_NAMES if name in takes.names]
        given = [name for name in taken if name in fields]
        if len(given) == 1:
            return given[0]
        if len(left) == 1 and not taken:
            return left[0] if needs_target else None
    if candidates and needs_target and not is_open:
        raise LearnerError(
            f"the target must be one field of the batch, but may be {' or '.join(map(repr, candidates))}: the batch is "
            f"{describe(fields)}, forward takes {takes}. Call it one of {', '.join(TARGET_NAMES)}, or say which it is "
            f"with `predictor=Predictor(model, target_key=...)`."
        )
    return None


def _require_inputs(takes: ForwardSignature, fields: Mapping[str, Any], inputs: list[str], left: list[str]) -> None:
    missing = [name for name in takes.required if name not in inputs]
    if inputs and not missing:
        return
    hint = "".join(nearest(name, left) for name in missing)
    lacks = f"lacks {', '.join(map(repr, missing))}{hint}" if missing else "has nothing of that"
    raise LearnerError(
        f"the model must take what the batch holds: forward takes {takes}, the batch {lacks}: {describe(fields)}. "
        f"Rename a key, or make what goes in by `Predictor(model, preprocess_fn=...)`; a whole mapping goes in where "
        f"`forward` calls its one argument `batch`."
    )
