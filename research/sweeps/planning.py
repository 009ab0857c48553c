"""The runs that words of ``fathom train`` ask for, without training any of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig

from research.config.hydra_config import register_with_hydra, resource_dir, to_config
from research.config.schema import Config
from research.sweeps.composition import Composer
from research.sweeps.jobs import expand_jobs


@dataclass(frozen=True)
class PlannedRun:
    """A run that is asked for.

    Attributes:
        overrides: its settings as words.
        config: its configuration.
    """

    overrides: Sequence[str]
    config: Config


@dataclass(frozen=True)
class _Jobs:
    """The jobs that words ask for, and what composes them."""

    composer: Composer
    master: DictConfig
    overrides: Sequence[Sequence[str]]


def plan_runs(words: Sequence[str], *, multirun: bool = False) -> list[PlannedRun]:
    """The runs that settings ask for: one, or with ``multirun`` one for each combination.

    An experiment's sweep is planned without ``multirun`` too.

    Args:
        words: settings, ``path=value``.
        multirun: whether values that are separated by commas are those of several runs.

    Raises:
        ValueError: a setting is wrong, or has several values without ``multirun``.
    """
    jobs = _expand(words, multirun=multirun)
    planned = []
    for job in jobs.overrides:
        run_spec = jobs.composer.make_run_spec(jobs.master, job)
        planned.append(PlannedRun(job, run_spec.config))
    return planned


def count_runs(words: Sequence[str]) -> int:
    """How many runs settings ask for; see ``plan_runs``."""
    return len(_expand(words).overrides)


def check_first_run(words: Sequence[str]) -> None:
    """Checks the settings of the first run that words ask for, without those of its data.

    Args:
        words: settings, ``path=value``, such as those of an experiment.

    Raises:
        ValueError: a setting is wrong.
    """
    jobs = _expand(words)
    first = list(jobs.overrides[0])
    to_config(jobs.composer.load_configuration("config", first, run_mode=RunMode.RUN))


def _expand(words: Sequence[str], *, multirun: bool = False) -> _Jobs:
    register_with_hydra()
    search_path = create_config_search_path(str(resource_dir("conf").absolute()))
    composer = Composer(ConfigLoaderImpl(search_path))
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    master = composer.load_configuration("config", list(words), run_mode=mode)
    if master.hydra.mode is RunMode.MULTIRUN:
        multirun = True
    jobs = [list(words)]
    if multirun:
        sweeper = master.hydra.sweeper
        arms = {name: dict(grid) for name, grid in (sweeper.arms or {}).items()}
        jobs = expand_jobs(dict(sweeper.params or {}), arms, words, composer)
    return _Jobs(composer, master, jobs)
