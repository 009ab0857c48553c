"""The rows of settings that the help and the reference page are made of."""

import dataclasses
import re

import pytest

from research.config import schema
from research.config.hydra_config import resource_dir
from research.config.reference import (
    SettingRow,
    format_value,
    options_in_words,
    setting_groups,
)

GROUPS = {group.name: group for group in setting_groups()}
WITH_OPTIONS = (*schema.OPTIONS, "tracker")


def rows_of(path: str) -> list[SettingRow]:
    """The rows of a setting, one for each different declaration."""
    group = GROUPS[path.rpartition(".")[0]]
    return [row for row in group.settings if row.path == path]


def row_of(path: str, option: str = "") -> SettingRow:
    """The row of a setting that this option has."""
    for row in rows_of(path):
        if not option or option in row.options:
            return row
    raise LookupError(path)


def test_every_setting_that_can_be_set_has_a_row():
    for declared in schema.iter_declared():
        if declared.declared is not None:
            assert declared.declared.meaning in [row.meaning for row in rows_of(declared.path)]


def test_groups_stand_in_the_order_of_the_configuration():
    expected = [""]
    for item in dataclasses.fields(schema.Config):
        if schema.is_group(item.default):
            expected.append(item.name)
    assert list(GROUPS) == expected


@pytest.mark.parametrize("group", WITH_OPTIONS)
def test_every_option_with_a_file_has_a_row_and_a_meaning(group):
    files = sorted((resource_dir("conf") / group).glob("*.yaml"))
    meanings = {option.name: option.meaning for option in GROUPS[group].options}
    assert sorted(meanings) == [f"{group}={file.stem}" for file in files]
    assert all(meanings.values())


@pytest.mark.parametrize("group", schema.OPTIONS)
def test_options_stand_in_the_order_of_the_code(group):
    rows = GROUPS[group].options
    for row, name in zip(rows, schema.OPTIONS[group], strict=False):
        assert row.name == f"{group}={name}"


def test_the_default_option_is_the_one_of_the_root_file():
    assert GROUPS["activation"].default == "relu"
    assert GROUPS["tracker"].default == "wandb"
    assert GROUPS["train"].default == ""


def test_a_setting_says_its_default_range_meaning_and_whether_it_is_traced():
    row = row_of("optimizer.momentum", "optimizer=nesterov")
    assert row.default == "0.9"
    assert row.valid == "a number ≥ 0 and < 1"
    assert row.is_traced
    assert row.meaning == "Decay of the momentum."


def test_a_default_that_an_option_changes_stands_with_the_option():
    assert row_of("measure.every").other_defaults == {"measure=full": "10"}
    assert row_of("optimizer.beta2", "optimizer=lion").other_defaults == {"optimizer=lion": "0.99"}
    assert row_of("optimizer.beta2", "optimizer=adam").other_defaults == {
        "optimizer=rmsprop": "0.9"
    }


def test_an_option_may_change_the_defaults_of_another_group():
    other_defaults = row_of("norm.placement").other_defaults
    assert other_defaults == {"model=resnet_cifar": "branch", "model=resnet": "branch"}


def test_a_setting_says_what_it_needs():
    condition = row_of("optimizer.warmup_steps").condition
    assert condition == "optimizer.schedule=warmup or warmup_cosine or warmup_exponential"
    assert row_of("measure.inspect_every").condition == "measure.inspect=[…]"


def test_declarations_that_say_the_same_are_one_row():
    assert len(rows_of("data.label_noise")) == 1
    assert len(rows_of("skip.branch_scale")) == 2


def test_options_are_named_or_the_few_that_lack_the_setting():
    assert options_in_words(GROUPS["init"], row_of("init.gain")) == "all but zeros"
    assert options_in_words(GROUPS["skip"], row_of("skip.gate_bias")) == "highway, gated"
    assert options_in_words(GROUPS["model"], row_of("model.width")) == ""


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "null"), (True, "true"), ((64,), "[64]"), (0.9, "0.9"), ("train", "train")],
)
def test_values_are_written_as_on_the_command_line(value, written):
    assert format_value(value) == written


def test_an_option_that_sets_other_groups_says_so():
    (transformer,) = [row for row in GROUPS["model"].options if row.name == "model=transformer"]
    assert transformer.values["optimizer"] == "adamw"
    assert transformer.values["model.depth"] == 4


@pytest.mark.parametrize("group", WITH_OPTIONS)
def test_every_file_of_an_option_starts_with_one_line_that_says_what_it_is(group):
    for file in sorted((resource_dir("conf") / group).glob("*.yaml")):
        text = file.read_text().removeprefix("# @package _global_\n")
        assert re.match(r"# [^\n]+\n[^#]", text), file
