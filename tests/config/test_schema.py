"""The schema: ranges, which settings an option has, and what is traced."""

import dataclasses
import enum
import math
from typing import Any

import pytest

from research.config.schema import (
    OPTIONS,
    Config,
    flatten,
    iter_declared,
    iter_fields,
    make_option,
    options_with,
    selector_of,
    setting_paths,
    to_dict,
)
from research.config.validation import check_config, describe_valid_values
from research.runner.run_spec import run_id

from ..builders import make_config

ALL_OPTIONS = [(group, name) for group, classes in OPTIONS.items() for name in classes]
DECLARED: list[Any] = [item for item in iter_declared() if item.declared is not None]
DECLARED_PATHS = [item.path for item in DECLARED]


def with_setting(item, value) -> Config:
    """A configuration of an option that has the setting, set to ``value``."""
    changes: dict[str, Any] = {item.path: value}
    if item.options:
        group, _, name = item.options[0].partition("=")
        changes[group] = name
    return make_config(conditions_of(item) | changes)


def conditions_of(item) -> dict[str, Any]:
    """What has to be set for the setting to act."""
    group = item.path.partition(".")[0]
    conditions = {}
    if group == "mesh":
        conditions = {"mesh.coordinator": "host:1", "mesh.processes": 1, "mesh.process": 0}
    for name, values in item.declared.only_with.items():
        conditions[f"{group}.{name}"] = values[0]
    if "wandb" in item.declared.needs:
        conditions["tracker.wandb"] = True
    if "layer" in item.declared.needs:
        conditions["init.layer"] = 0
    if "inspect" in item.declared.needs:
        conditions["measure.inspect"] = ("sharpness",)
    return conditions


def bounds():
    for item in DECLARED:
        for kind, bound in item.declared.bounds.items():
            yield item, kind, bound


def just_beyond(item, kind, bound):
    """The value nearest to ``bound`` that it excludes."""
    if kind in ("gt", "lt"):
        return bound
    is_lower = kind == "ge"
    if "float" in str(item.field.type):
        return math.nextafter(bound, -math.inf if is_lower else math.inf)
    return bound - 1 if is_lower else bound + 1


BOUNDS = list(bounds())
BOUND_IDS = [f"{item.path} {kind} {bound}" for item, kind, bound in BOUNDS]


@pytest.mark.parametrize(("item", "kind", "bound"), BOUNDS, ids=BOUND_IDS)
def test_a_number_beyond_its_range_is_refused_with_path_range_and_value(item, kind, bound):
    value = just_beyond(item, kind, bound)
    with pytest.raises(ValueError) as refused:
        check_config(with_setting(item, value))
    message = str(refused.value)
    assert message.startswith(f"{item.path} must be ")
    assert message.endswith(f"got {value}")
    assert describe_valid_values(item.path) in message


def inclusive_bounds():
    for item, kind, bound in BOUNDS:
        is_size_of_network = item.path.startswith("model.")  # other rules refuse some of them
        if kind in ("ge", "le") and not is_size_of_network:
            yield pytest.param(item, bound, id=f"{item.path} {kind} {bound}")


@pytest.mark.parametrize(("item", "bound"), list(inclusive_bounds()))
def test_a_number_at_the_end_of_its_range_is_accepted(item, bound):
    assert check_config(with_setting(item, bound)) is None


def test_every_count_and_every_number_has_a_range():
    any_finite_number = {
        *("skip.branch_scale", "skip.shortcut_scale", "skip.gate_bias"),
        *("init.bias_mean", "data.input_mean"),
    }
    without_range = set()
    for item in DECLARED:
        is_number = item.field.type in (int, float, int | None, float | None)
        if is_number and not item.declared.bounds:
            without_range.add(item.path)
    assert without_range == any_finite_number


FLOATS = [item for item in DECLARED if item.field.type is float]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("item", FLOATS, ids=[item.path for item in FLOATS])
def test_what_is_not_finite_is_refused(item, value):
    with pytest.raises(ValueError, match=f"{item.path} must be"):
        check_config(with_setting(item, value))


@pytest.mark.parametrize("shape", [(), (0,), (8, -1)])
def test_a_shape_is_a_list_of_sizes(shape):
    with pytest.raises(ValueError, match="data.shape must be"):
        check_config(make_config({"data": "noise", "data.shape": shape}))


def test_the_defaults_are_in_their_ranges():
    assert check_config(Config()) is None


@pytest.mark.parametrize(("item", "kind", "bound"), BOUNDS, ids=BOUND_IDS)
def test_the_range_in_words_holds_the_exact_bound(item, kind, bound):
    """A bound that is rounded on its way to the reader would name a value that is refused."""
    words = describe_valid_values(item.path)
    numbers = [float(word) for word in words.split() if word[0].isdigit()]
    assert bound in numbers, words


def test_every_setting_says_what_it_does():
    for item in DECLARED:
        assert item.declared.meaning.endswith("."), item.path
        assert len(item.declared.meaning) > 10, item.path


@pytest.mark.parametrize(("group", "name"), ALL_OPTIONS)
def test_an_option_knows_its_own_name(group, name):
    option = make_option(group, name)
    assert getattr(option, selector_of(group)).name == name


@pytest.mark.parametrize(("group", "name"), ALL_OPTIONS)
def test_options_are_frozen_and_hashable(group, name):
    option = make_option(group, name)
    assert hash(option) == hash(make_option(group, name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(option, selector_of(group), None)


def test_a_setting_exists_only_for_the_options_that_it_acts_on():
    assert options_with("skip.growth") == ("skip=dense",)
    assert options_with("init.sigma_w") == ("init=gaussian",)
    assert options_with("model.heads") == ("model=transformer",)
    assert "optimizer=sgd" not in options_with("optimizer.beta1")
    assert options_with("optimizer.learning_rate") == ()


def test_a_setting_without_effect_is_not_part_of_the_configuration():
    constant = make_config({"optimizer": "adam"})
    warming = make_config({"optimizer": "adam", "optimizer.schedule": "warmup"})
    assert "optimizer.warmup_steps" not in flatten(constant)
    assert "optimizer.warmup_steps" in flatten(warming)


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        (
            {"optimizer.warmup_steps": 5},
            "schedule=warmup or warmup_cosine or warmup_exponential, got constant",
        ),
        ({"optimizer.clip_threshold": 2.0}, "clip=global_norm or value or adaptive, got none"),
        ({"precision.loss_scale": 8.0}, "loss_scaling=static or dynamic, got none"),
        ({"precision.growth_factor": 3.0}, "loss_scaling=dynamic, got none"),
        ({"measure.inspect_every": 5}, "inspect=[…], got []"),
        ({"tracker.project": "mine"}, "wandb=true, got false"),
    ],
    ids=str,
)
def test_a_setting_that_is_set_without_effect_is_refused(changes, condition):
    ((path, value),) = changes.items()
    group = path.partition(".")[0]
    with pytest.raises(ValueError) as refused:
        check_config(make_config(changes))
    assert str(refused.value) == f"{path}={value} has no effect: it needs {group}.{condition}"


def test_every_walk_over_the_schema_finds_the_same_paths():
    default = [item.path for item in iter_fields(Config())]
    assert default == list(flatten(Config()))
    assert set(default) < set(setting_paths())


def test_traced_numbers_are_marked_at_their_field():
    marked = [item.path for item in DECLARED if item.declared.traced]
    assert {"seed", "optimizer.learning_rate", "init.gain", "train.steps"} <= set(marked)
    for item in DECLARED:
        if item.declared.traced:
            assert item.field.type in (int, float, int | None), item.path


def other_value(path, value):
    """A valid value that is not the present one."""
    if isinstance(value, enum.Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.25
    if isinstance(value, tuple):
        return ("sharpness",) if path == "measure.inspect" else (3,)
    return 7 if value is None and path in ("train.steps", "train.eval_every") else "other"


def test_the_same_configuration_has_the_same_id_and_any_other_has_another():
    changes_no_number = ("tags", "notes", "tracker.", "mesh.", "checkpoint.", "diagnose.every")
    base = run_id("study", Config())
    ids = {"another study": run_id("another study", Config())}
    for item in iter_fields(Config()):
        if item.declared is None:
            continue
        changed = make_config({item.path: other_value(item.path, item.value)})
        identity = run_id("study", changed)
        if item.path.startswith(changes_no_number):
            assert identity == base, item.path
        else:
            ids[item.path] = identity
    assert run_id("study", Config()) == base
    assert len({base, *ids.values()}) == len(ids) + 1
    for identity in ids.values():  # what W&B accepts
        assert identity.isalnum()
        assert len(identity) <= 64


def test_the_nested_and_the_flat_configuration_say_the_same():
    config = make_config({"model.depth": 7, "skip": "scaled"})
    nested = to_dict(config)
    for path, value in flatten(config).items():
        node = nested
        for name in path.split("."):
            node = node[name]
        assert node == value
        assert not isinstance(value, enum.Enum)
