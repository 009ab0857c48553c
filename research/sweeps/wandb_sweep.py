"""W&B sweeps: the configuration for ``wandb sweep``, from the command line of a sweep.

W&B's server chooses the values of each trial, and ``wandb agent`` trains it as an ordinary run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import IntervalSweep, Override

from research.config.override_checks import parse_overrides
from research.config.schema import Config
from research.records.files import replacing
from research.records.runs import JsonObject
from research.records.trackers.identity import with_environment

OPTION = "--wandb-sweep"
HYPERBAND_OPTION = "--hyperband"
METHODS = ("grid", "random", "bayes")
FILE = "wandb_sweep.yaml"
METRIC = {"name": "eval/loss", "goal": "minimize"}
DEFAULT_MIN_ITERATIONS = 3  # evaluations before hyperband may end a trial
# Settings of the sweep itself, which a trial has not.
NOT_IN_TRIAL = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep")
Grid = dict[str, Override]  # the last override of each setting


@dataclass(frozen=True)
class WandbSweep:
    """What the user asks for.

    Attributes:
        method: how W&B chooses values; None: ``grid``, or ``bayes`` where a setting has a range.
        min_iterations: evaluations before hyperband may end a trial; None for no early end.
    """

    method: str | None = None
    min_iterations: int | None = None

    def describe(self, grid: Grid, config: Config) -> JsonObject:
        """The configuration of the W&B sweep.

        Args:
            grid: the overrides of the sweep.
            config: the configuration of one of its runs.

        Raises:
            ValueError: W&B cannot run such a sweep.
        """
        _check_trials(grid, config)
        fixed = []
        parameters: JsonObject = {}
        for key, override in grid.items():
            if override.is_sweep_override():
                parameters[key] = _describe_values(override)
            elif not key.startswith(NOT_IN_TRIAL):
                fixed.append(str(override.input_line))
        if not parameters:
            raise ValueError(f"{OPTION} needs a setting with several values, such as seed=0,1,2")
        if "experiment" in grid:  # whose file makes a sweep of the command
            fixed.append("hydra.mode=RUN")
        names = {"project": config.tracker.project, "entity": config.tracker.entity}
        described: JsonObject = with_environment(names)
        if described["entity"] is None:
            del described["entity"]
        described["name"] = config.name
        described["method"] = self._choose_method(grid)
        described["metric"] = METRIC
        if self.min_iterations is not None:
            described["early_terminate"] = {"type": "hyperband", "min_iter": self.min_iterations}
        described["parameters"] = parameters
        described["command"] = ["${env}", "fathom", "train", *fixed, "${args_no_hyphens}"]
        return described

    def _choose_method(self, grid: Grid) -> str:
        ranges = [override for override in grid.values() if _is_interval(override)]
        if not ranges:
            return self.method or "grid"
        if self.method == "grid":
            raise ValueError(
                f"{OPTION}=grid needs values, not the range {ranges[0].input_line}; "
                f"{OPTION}=random and {OPTION}=bayes take ranges"
            )
        return self.method or "bayes"


def take_options(arguments: Sequence[str]) -> tuple[WandbSweep | None, list[str]]:
    """What the user asks for with ``--wandb-sweep`` and ``--hyperband``, and the other words.

    Args:
        arguments: the words after ``fathom train``.

    Raises:
        ValueError: an option has no valid value, or lacks the option that it belongs to.
    """
    given: dict[str, str | None] = {}
    others = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if option in (OPTION, HYPERBAND_OPTION):
            given[option] = value if equals else None
        else:
            others.append(word)
    if not given:
        return None, others
    if OPTION not in given:
        raise ValueError(f"{HYPERBAND_OPTION} needs {OPTION}")
    if not {"-m", "--multirun"} & set(others):
        raise ValueError(f"{OPTION} needs -m: fathom train -m … {OPTION}")
    method = given[OPTION]
    if method is not None and method not in METHODS:
        raise ValueError(f"{OPTION} must be one of {', '.join(METHODS)}, got {method}")
    min_iterations = None
    if HYPERBAND_OPTION in given:
        min_iterations = _parse_iterations(given[HYPERBAND_OPTION])
    return WandbSweep(method, min_iterations), others


def _parse_iterations(text: str | None) -> int:
    if text is None:
        return DEFAULT_MIN_ITERATIONS
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise ValueError(
        f"{HYPERBAND_OPTION} must be a number of evaluations of at least 1, got {text}"
    )


def _check_trials(grid: Grid, config: Config) -> None:
    """Checks that every trial can be an ordinary run of one study in W&B."""
    if not config.tracker.wandb:
        raise ValueError(f"{OPTION} needs tracker=wandb, because W&B chooses by what runs log")
    if config.name is None or "name" in grid and grid["name"].is_sweep_override():
        raise ValueError(f"{OPTION} needs name=…, the folder of all trials under outputs/")


def with_ends_of_ranges(arguments: Sequence[str]) -> list[str]:
    """Overrides with the two ends of each range as its values, so that both are checked."""
    words = []
    for override in parse_overrides(arguments):
        word = str(override.input_line)
        value = override.value()
        if isinstance(value, IntervalSweep):
            word = f"{override.get_key_element()}={value.start},{value.end}"
        words.append(word)
    return words


def _is_interval(override: Override) -> bool:
    return override.is_sweep_override() and isinstance(override.value(), IntervalSweep)


def _describe_values(override: Override) -> JsonObject:
    """The values of a setting as W&B writes them."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _describe_interval(value)
    return {"values": [_to_number(text) for text in override.sweep_string_iterator()]}


def _describe_interval(interval: IntervalSweep) -> JsonObject:
    low = interval.start
    high = interval.end
    if "log" in interval.tags:
        distribution = "log_uniform_values"
    elif isinstance(low, int) and isinstance(high, int):
        distribution = "int_uniform"
    else:
        distribution = "uniform"
    return {"distribution": distribution, "min": low, "max": high}


def _to_number(value: Any) -> Any:
    """A value as a number where it is one: W&B orders numbers, and draws axes for them."""
    text = str(value)
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def write_sweep(described: JsonObject, directory: Path) -> Path:
    """Writes the configuration into the directory of the study; returns the file."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FILE
    head = f"# wandb sweep {file}, then wandb agent with the name that it prints\n"
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    with replacing(file) as temporary:
        temporary.write_text(head + text, encoding="utf-8")
    return file
