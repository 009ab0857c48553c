"""``fathom train --help``: every group, option and setting, from the declarations. No jax."""

import textwrap
from collections.abc import Iterator, Sequence

from research.config.reference import (
    OptionRow,
    SettingGroup,
    SettingRow,
    options_in_words,
    setting_groups,
)

HELP_OPTIONS = ("--help", "-h")
WIDTH = 100
USAGE = """\
usage: fathom train [-m] [GROUP=OPTION …] [SETTING=VALUE …]

Trains one run and records it under outputs/. With -m it trains a sweep: one run for each
combination of the values that are separated by commas.

  fathom train model.depth=64 activation=sigmoid
  fathom train -m model.depth=4,16,64 skip=none,inv_sqrt_depth 'seed=range(0,3)' name=depth

Options of the command, most of which are Hydra's:
  -m, --multirun     train a sweep
  --wandb-sweep      with -m: train nothing, and write the sweep for `wandb sweep`, whose server
                     then chooses the values; =grid, =random or =bayes says how
  --hyperband        with --wandb-sweep: W&B ends poor trials early, after 3 evaluations; =N
  --cfg job          print the configuration of the run and stop
  --info defaults    print which files the configuration is composed of and stop
  --hydra-help       list all options of Hydra
  -h, --help         print this text and stop

A group takes the name of one option, and * marks the default. The option decides which settings
exist and may change their defaults. Runs that differ only in traced settings share one compiled
program. Two more groups are experiment=NAME, the sweep of a reproduction, and debug=quick, two
steps without a tracker. hydra/launcher= and hydra/sweeper= decide where and how a sweep runs;
docs/guides/sweeps.md describes their settings.
"""


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the words after ``fathom train`` ask for this text."""
    return not set(arguments).isdisjoint(HELP_OPTIONS)


def train_help() -> str:
    """The text of ``fathom train --help``."""
    lines = [USAGE]
    for group in setting_groups():
        lines += _group_lines(group)
        lines.append("")
    return "\n".join(lines)


def _group_lines(group: SettingGroup) -> Iterator[str]:
    if group.name:
        yield f"{group.name}: {group.meaning}"
    for option in group.options:
        is_default = option.name == f"{group.name}={group.default}"
        yield from _option_lines(option, is_default)
    for row in group.settings:
        yield from _setting_lines(group, row)


def _option_lines(option: OptionRow, is_default: bool) -> Iterator[str]:
    mark = "*" if is_default else " "
    first = f"{mark} {option.name:<24}"
    indent = " " * 27
    yield from textwrap.wrap(
        f"{first} {option.meaning}",
        WIDTH,
        subsequent_indent=indent,
        drop_whitespace=True,
    )
    others = []
    for path, value in option.values.items():
        if "." not in path:  # an option of another group
            others.append(f"{path}={value}")
    if others:
        text = f"{indent}chooses {', '.join(others)}"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent=indent)


def _setting_lines(group: SettingGroup, row: SettingRow) -> Iterator[str]:
    yield f"  {row.path}={row.default}"
    traced = "; traced" if row.is_traced else ""
    if row.is_switch:
        traced += ", 0 is another program"
    yield from _wrap(f"{row.meaning} Takes {row.valid}{traced}.")
    having = options_in_words(group, row)
    if having:
        yield from _wrap(f"Exists for {group.name}: {having}.")
    if row.condition:
        yield from _wrap(f"Has an effect only with {row.condition}.")
    if row.other_defaults:
        defaults = [f"{value} with {option}" for option, value in row.other_defaults.items()]
        yield from _wrap(f"Default {', '.join(defaults)}.")


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
