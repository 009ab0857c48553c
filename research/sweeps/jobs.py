"""A sweep before it starts: its jobs, which of them are done, which run together. No jax."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser

from research.config.schema import Config
from research.runner.run_spec import RunSpec, group_key


def jobs_of(
    params: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    arguments: Sequence[str] = (),
    loader: ConfigLoader | None = None,
) -> list[Any]:
    """The overrides of each job of a grid, or of one grid an arm; the command line wins over an experiment's file."""
    parser = OverridesParser.create(config_loader=loader)
    jobs = []
    for arm in (arms or {"": {}}).values():
        given = [f"{name}={values}" for name, values in {**params, **arm}.items()]
        last = {
            override.get_key_element(): override
            for override in parser.parse_overrides([*given, *arguments])
        }
        jobs += itertools.chain(*BasicSweeper.split_arguments(list(last.values()), None))
    return jobs


def without_doubles(jobs: Sequence[Sequence[str]], members: Sequence[RunSpec]) -> list[int]:
    """The jobs' numbers, but for those that ask for the same run once more.

    Raises:
        ValueError: where two different runs would be recorded in one directory.
    """
    first: dict[Path, int] = {}
    for number, member in enumerate(members):
        other = first.setdefault(member.directory, number)
        if member.identity != members[other].identity:
            both = " and ".join(" ".join(jobs[n]) or "no override" for n in (other, number))
            raise ValueError(
                f"{both} would both be recorded in {member.directory}: hydra.sweep.subdir must tell them"
            )
    return list(first.values())


def groups_of(configs: Mapping[int, Config], most: int | None = None) -> list[list[int]]:
    """The numbers of runs that are trained together, in groups of at most ``most`` and of like size."""
    alike: dict[str, list[int]] = {}
    for number, config in configs.items():
        alike.setdefault(group_key(config), []).append(number)
    return [part for numbers in alike.values() for part in _parts(numbers, most or len(numbers))]


def _parts(numbers: list[int], most: int) -> list[list[int]]:
    length = math.ceil(len(numbers) / math.ceil(len(numbers) / most))
    return [numbers[start : start + length] for start in range(0, len(numbers), length)]
