import dataclasses
import enum
import math
from typing import Any

import numpy as np
import pytest

from research.config.schema import Config, flatten, iter_fields, setting_paths, to_dict, traced
from research.config.validation import check, valid
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import run_id


def changed(path, value):
    """The default configuration but for one value."""
    *groups, name = path.split(".")
    config = node = Config()
    for group in groups:
        node = getattr(node, group)
    setattr(node, name, value)
    return config


def fields(schema: Any = Config, prefix=""):
    """Every (path, field) of the schema, from the dataclasses alone."""
    found = {}
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.type):
            found |= fields(item.type, f"{prefix}{item.name}.")
        else:
            found[f"{prefix}{item.name}"] = item
    return found


FIELDS = fields()
VALUES = {path: value for path, _, value in iter_fields(Config())}
BOUNDS = [
    (path, *bound)
    for path, item in FIELDS.items()
    for bound in item.metadata.get("bounds", {}).items()
]
FLOATS = [path for path, item in FIELDS.items() if item.type is float]


def beyond(path, kind, bound):
    """The value nearest to ``bound`` that it excludes."""
    if kind in ("gt", "lt"):
        return bound
    down = kind == "ge"
    return (
        math.nextafter(bound, -math.inf if down else math.inf)
        if path in FLOATS
        else bound + (-1 if down else 1)
    )


@pytest.mark.parametrize(("path", "kind", "bound"), BOUNDS)
def test_a_number_beyond_its_range_is_refused_with_path_range_and_value(path, kind, bound):
    value = beyond(path, kind, bound)
    with pytest.raises(ValueError) as refused:
        check(changed(path, value))
    said = str(refused.value)
    assert (
        said.startswith(f"{path} must be ")
        and said.endswith(f"got {value}")
        and valid(path) in said
    )


@pytest.mark.parametrize(
    ("path", "kind", "bound"), [bound for bound in BOUNDS if bound[1] in ("ge", "le")]
)
def test_a_number_at_the_end_of_its_range_is_taken(path, kind, bound):
    config = changed(path, bound)
    config.train.batch_size = 1  # so that one example is a batch
    assert check(config) is None


def test_every_count_and_every_number_has_a_range():
    free = {
        "skip.branch_scale",
        "skip.shortcut_scale",
        "skip.gate_bias",
    }  # any finite number is meaningful
    numeric = {path for path, item in FIELDS.items() if item.type in (int, float, int | None)}
    assert numeric - {path for path, _, _ in BOUNDS} == free


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", FLOATS)
def test_what_is_not_finite_is_refused(path, value):
    with pytest.raises(ValueError, match=f"{path} must be"):
        check(changed(path, value))


@pytest.mark.parametrize("shape", [[], [0], [8, -1]])
def test_a_shape_is_a_list_of_sizes(shape):
    with pytest.raises(ValueError, match="data.shape must be"):
        check(changed("data.shape", shape))


def test_the_defaults_are_in_their_ranges():
    assert check(Config()) is None


def test_the_range_in_words_holds_the_very_bounds():
    """A bound that is rounded on the way to the reader would name a value that is refused."""
    for path, _, bound in BOUNDS:
        assert (
            f"{bound}" in valid(path)
            or f"{bound:g}" in valid(path)
            and float(f"{bound:g}") == bound
        ), valid(path)


def test_every_walk_over_the_schema_finds_the_same_paths():
    assert (
        list(setting_paths())
        == list(FIELDS)
        == [path for path, _, _ in iter_fields(Config())]
        == list(flatten(Config()))
    )


def test_traced_are_exactly_the_marked_numbers():
    marked = {path for path, item in FIELDS.items() if item.metadata.get("traced")}
    assert set(traced(Config())) == marked
    assert marked >= {
        "seed",
        "optimizer.learning_rate",
        "init.gain",
        "skip.branch_scale",
        "loss.label_smoothing",
    }
    assert all(FIELDS[path].type in (int, float) for path in marked)


@pytest.mark.parametrize("path", traced(Config()))
def test_a_traced_number_leaves_the_program_as_it_is_and_reaches_it(path):
    values = (0.1, 0.2) if path in SWITCHES else (VALUES[path], _other(path))
    before, after = (make_run_setup(_on_noise(changed(path, value))) for value in values)
    assert after.spec == before.spec
    same = {name for name in before.hp if np.array_equal(before.hp[name], after.hp[name])}
    assert set(before.hp) - same == {path}


SWITCHES = ("model.dropout", "train.input_noise")  # draw no random numbers at 0


@pytest.mark.parametrize("path", SWITCHES)
def test_what_costs_nothing_at_0_is_another_program_beyond(path):
    before, after = (make_run_setup(_on_noise(changed(path, value))) for value in (0.0, 0.1))
    assert after.spec != before.spec


@pytest.mark.parametrize(
    "path",
    [
        "model.depth",
        "model.width",
        "model.bias",
        "train.batch_size",
        "measure.every",
        "skip.kind",
        "init.kind",
    ],
)
def test_what_changes_the_code_changes_the_program(path):
    before, after = (
        make_run_setup(_on_noise(config)) for config in (Config(), changed(path, _other(path)))
    )
    assert after.spec != before.spec


def _on_noise(config):
    config.data.name = type(config.data.name).noise
    return config


def _other(path):
    """A valid value that is not the default."""
    value = VALUES[path]
    if isinstance(value, enum.Enum):
        return next(option for option in type(value) if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.25
    return [3] if isinstance(value, list) else "other" if "str" in str(FIELDS[path].type) else 7


def test_the_same_configuration_has_the_same_id_and_any_other_has_another():
    choices = [
        path
        for path, value in VALUES.items()
        if not isinstance(value, enum.Enum) or len(type(value)) > 1
    ]
    left_out = ("tracker.", "mesh.", "checkpoint.", "data.raw_dir", "data.download")
    mirrors = [path for path in choices if path.startswith(left_out)]  # change no number
    ids = {path: run_id("study", changed(path, _other(path))) for path in choices}
    ids |= {"": run_id("study", Config()), "elsewhere": run_id("elsewhere", Config())}
    assert run_id("study", Config()) == ids[""] and {ids.pop(path) for path in mirrors} == {ids[""]}
    assert len(set(ids.values())) == len(ids)
    assert all(
        identity.isalnum() and len(identity) <= 64 for identity in ids.values()
    )  # what W&B takes


def test_the_tree_and_the_flat_configuration_say_the_same():
    nested = to_dict(changed("model.depth", 7))
    for path, value in flatten(changed("model.depth", 7)).items():
        node = nested
        for name in path.split("."):
            node = node[name]
        assert node == value
        assert not isinstance(value, enum.Enum)
