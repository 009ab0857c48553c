"""The rows of settings that the help and the reference page are made of."""

import dataclasses
from pathlib import Path

import pytest

from research.config import schema
from research.config.hydra_config import resource_dir
from research.config.reference import format_value, options_in_words, setting_groups

GROUPS = {group.name: group for group in setting_groups()}
SETTINGS = [row for group in GROUPS.values() for row in group.settings]


def row_of(path: str, option: str = ""):
    """The row of a setting, of the one that this option has."""
    for row in SETTINGS:
        if row.path == path and (not option or not row.options or option in row.options):
            return row
    raise LookupError(path)


def test_every_setting_that_can_be_set_has_a_row():
    declared = {item.path for item in schema.iter_declared() if item.declared is not None}
    assert {row.path for row in SETTINGS} == declared


def test_groups_stand_in_the_order_of_the_configuration():
    fields = [item.name for item in dataclasses.fields(schema.Config)]
    expected = ["", *[name for name in fields if schema.is_group(getattr(schema.Config(), name))]]
    assert list(GROUPS) == expected


@pytest.mark.parametrize("group", [name for name, group in GROUPS.items() if group.options])
def test_every_option_with_a_file_has_a_row_and_a_meaning(group):
    files = {file.stem for file in (resource_dir("conf") / group).glob("*.yaml")}
    names = [option.name.removeprefix(f"{group}=") for option in GROUPS[group].options]
    assert sorted(names) == sorted(files)
    assert names[: len(schema.OPTIONS.get(group, ()))] == list(schema.OPTIONS.get(group, ()))
    for option in GROUPS[group].options:
        assert option.meaning


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
    assert condition == "optimizer.schedule=warmup or warmup_cosine"
    assert row_of("measure.inspect_every").condition == "measure.inspect"


def test_declarations_that_say_the_same_are_one_row():
    rows = [row for row in SETTINGS if row.path == "data.scaling"]
    assert len(rows) == 1


def test_options_are_named_or_the_few_that_lack_the_setting():
    assert options_in_words(GROUPS["init"], row_of("init.gain")) == "all but zeros"
    assert options_in_words(GROUPS["skip"], row_of("skip.gate_bias")) == "highway, gated"
    assert options_in_words(GROUPS["model"], row_of("model.depth")) == ""


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "null"), (True, "true"), ((64,), "[64]"), (0.9, "0.9"), ("train", "train")],
)
def test_values_are_written_as_on_the_command_line(value, written):
    assert format_value(value) == written


def test_an_option_that_sets_other_groups_says_so():
    options = {option.name: option for option in GROUPS["model"].options}
    values = options["model=transformer"].values
    assert values["optimizer"] == "adamw"
    assert values["model.depth"] == 4


def test_every_file_of_an_option_starts_with_one_line_that_says_what_it_is():
    for group in GROUPS.values():
        for file in sorted((resource_dir("conf") / group.name).glob("*.yaml")):
            if group.name:  # not the settings that belong to no group
                check_comment(file)


def check_comment(file: Path):
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    meaning = [line for line in comments if line != "# @package _global_"]
    assert len(meaning) == 1, file
