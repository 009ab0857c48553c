"""The jobs of a sweep: which there are, which are the same run, and which are trained as one group.

A job is what Hydra calls one: the overrides of one run of a sweep. Nothing here imports JAX.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override

from research.config.override_checks import check_sweep, parse_overrides
from research.config.schema import Config
from research.runner.run_spec import RunSpec, group_key

FOLDER_OVERRIDE = "hydra.sweep.subdir="

Job = list[str]  # overrides
Grid = Mapping[str, Any]  # the values of each setting, separated by commas


def expand_jobs(
    params: Grid,
    arms: Mapping[str, Grid] | None = None,
    arguments: Sequence[str] = (),
    loader: ConfigLoader | None = None,
) -> list[Job]:
    """Expands a sweep's grids into the overrides of each job.

    Args:
        params: The grid.
        arms: Further grids by name. Each is combined with ``params``, whose settings it may
            replace. Without any, ``params`` alone is the grid.
        arguments: Overrides from the command line. They replace those of ``params`` and ``arms``.
        loader: Hydra's loader, which knows whether a name is a group or a setting.

    Returns:
        The overrides of each job, grid by grid.

    Raises:
        ValueError: an override cannot be parsed, has no values, or too many.
    """
    grids = parse_grids(params, arms, arguments, loader)
    check_sweep(grids)
    jobs = []
    for grid in grids:
        for batch in BasicSweeper.split_arguments(list(grid.values()), None):
            jobs.extend(batch)
    return jobs


def parse_grids(
    params: Grid,
    arms: Mapping[str, Grid] | None = None,
    arguments: Sequence[str] = (),
    loader: ConfigLoader | None = None,
) -> list[dict[str, Override]]:
    """The last override of each setting, for each grid of a sweep.

    Args:
        params: see ``expand_jobs``, as for the other arguments.
        arms: further grids by name.
        arguments: overrides from the command line.
        loader: Hydra's loader.

    Raises:
        ValueError: an override cannot be parsed.
    """
    grids = []
    for arm in arms.values() if arms else [{}]:
        settings = {**params, **arm}
        words = [f"{path}={_as_word(values)}" for path, values in settings.items()]
        grid = {}  # the last override of a setting replaces those before it
        for override in parse_overrides([*words, *arguments], loader):
            grid[override.get_key_element()] = override
        grids.append(grid)
    return grids


def _as_word(values: Any) -> str:
    """Values of a grid as they are written in an override; a file may hold a number or nothing."""
    return "null" if values is None else str(values)


def find_unique_jobs(jobs: Sequence[Job], run_specs: Sequence[RunSpec]) -> list[int]:
    """The positions of the jobs, except those that ask for a run that an earlier job asks for.

    Raises:
        ValueError: Two different runs would be recorded in one directory.
    """
    first_positions: dict[Path, int] = {}
    for position, run_spec in enumerate(run_specs):
        first = first_positions.setdefault(run_spec.directory, position)
        if run_spec.identity != run_specs[first].identity:
            first_job = _as_written(jobs[first]) or "no override"
            this_job = _as_written(jobs[position]) or "no override"
            raise ValueError(
                f"{first_job} and {this_job} would both be recorded in {run_spec.directory}: "
                "set hydra.sweep.subdir so that their directories differ"
            )
    return list(first_positions.values())


def _as_written(job: Job) -> str:
    """The overrides of a job without that of its folder, which the user did not write."""
    return " ".join(word for word in job if not word.startswith(FOLDER_OVERRIDE))


def group_jobs(configs: Mapping[int, Config], max_group_size: int | None = None) -> list[list[int]]:
    """Groups the jobs whose runs can be trained as one program.

    Args:
        configs: The configuration of each job, by the job's number.
        max_group_size: The largest number of runs in a group, None for no limit. Jobs that exceed
            it are split into groups of about the same size.

    Returns:
        The job numbers of each group.
    """
    numbers_by_key: dict[str, list[int]] = {}
    for number, config in configs.items():
        numbers_by_key.setdefault(group_key(config), []).append(number)
    groups = []
    for numbers in numbers_by_key.values():
        max_size = max_group_size or len(numbers)
        groups.extend(_split_evenly(numbers, max_size))
    return groups


def _split_evenly(numbers: list[int], max_size: int) -> Iterator[list[int]]:
    num_parts = math.ceil(len(numbers) / max_size)
    size = math.ceil(len(numbers) / num_parts)
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
