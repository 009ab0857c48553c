"""Launchers that train groups of runs outside this process.

They are ``joblib``, ``submitit_local``, ``submitit_slurm`` and ``ray``. By default each run is a
group of its own; ``hydra.launcher.max_group_size`` allows larger groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.fathom_grouped_launcher import (
    GroupedLauncher,
    GroupedLauncherConf,
    JobGroup,
    TrainedGroup,
)

MODULE = "hydra_plugins.fathom_engines"
Outcomes = Iterator[tuple[int, Any]]  # of each task, with its position


@dataclass
class EngineConf(GroupedLauncherConf):
    """The settings that all of these launchers have."""

    # The largest number of devices that a group uses; null: all.
    devices: int | None = 1
    # The largest number of runs in a group; null: all runs that share a program.
    max_group_size: int | None = 1


@dataclass
class JoblibConf(EngineConf):
    """Trains groups in several processes of this machine."""

    _target_: str = f"{MODULE}.JoblibLauncher"
    # The largest number of processes at once; -1: one for each core.
    n_jobs: int = -1


@dataclass
class SubmititLocalConf(EngineConf):
    """Trains groups in processes that submitit starts on this machine, all at once.

    The settings are those of submitit.
    """

    _target_: str = f"{MODULE}.SubmititLauncher"
    cluster: str = "local"
    name: str = "fathom"
    timeout_min: int = 60
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None


@dataclass
class SubmititSlurmConf(SubmititLocalConf):
    """Trains groups in an array of Slurm jobs.

    The settings are those of submitit, without its prefix ``slurm_``.
    """

    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256
    signal_delay_s: int = 120
    # Shell commands that run at the start of each Slurm job.
    setup: list[str] | None = None
    # Further options of sbatch.
    additional_parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConf(EngineConf):
    """Trains groups as Ray tasks."""

    _target_: str = f"{MODULE}.RayLauncher"
    # What ray.init takes. Without an address, Ray is started on this machine.
    init: dict[str, Any] = field(default_factory=dict)
    # What ray.remote takes, such as num_cpus and num_gpus of a task.
    remote: dict[str, Any] = field(default_factory=dict)


CONFIGURATIONS = {
    "joblib": JoblibConf,
    "submitit_local": SubmititLocalConf,
    "submitit_slurm": SubmititSlurmConf,
    "ray": RayConf,
}


def register_launchers() -> None:
    """Makes the launchers known to Hydra, in place of those of other packages of the same names.

    ``hydra-joblib-launcher``, say, also has one that is called ``joblib``. Its jobs are processes
    that know nothing of run groups.
    """
    store = ConfigStore.instance()
    for name, node in CONFIGURATIONS.items():
        store.store(group="hydra/launcher", name=name, node=node, provider="fathom")


register_launchers()


class EngineLauncher(GroupedLauncher):
    """Trains the groups with an engine; a task that is killed fails only the runs of its group."""

    def __init__(
        self,
        map_mode: Any,
        devices: int | None,
        max_group_size: int | None,
        **settings: Any,
    ):
        super().__init__(map_mode, devices, max_group_size)
        self.settings: dict[str, Any] = {}
        for name, value in settings.items():
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
            self.settings[name] = value

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        """Called by Hydra before anything of the sweep is written.

        Raises:
            ValueError: The package of the launcher is not installed.
        """
        from research.config.packages import check_launcher

        check_launcher(str(config.hydra.runtime.choices["hydra/launcher"]))
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def run_tasks(self, tasks: Sequence[Any]) -> Outcomes:
        """Yields the position of each task with its outcome; see ``research.sweeps.engines``."""
        raise NotImplementedError

    def train_groups(self, groups: Sequence[JobGroup]) -> Iterator[TrainedGroup]:
        """Yields each group with the results of its runs, in the order in which groups end."""
        from research.sweeps.engines import GroupTask

        tasks = []
        for group in groups:
            tasks.append(
                GroupTask(
                    run_specs=self.make_run_specs(group),
                    map_mode=self.map_mode.name,
                    devices=self.devices,
                    working_dir=Path.cwd(),
                )
            )
        for position, outcome in self.run_tasks(tasks):
            task = tasks[position]
            if isinstance(outcome, BaseException):
                results = task.record_failure(outcome)
            else:
                results = outcome
            self._show_progress(task, results)
            yield groups[position], results

    def _show_progress(self, task: Any, results: Sequence[dict[str, Any]]) -> None:
        """Shows that all steps of a group are done; there is no progress to show before that."""
        progress = self.session.progress
        name = task.run_specs[0].directory.name
        if len(results) > 1:
            name = f"{len(results)} runs"
        progress.start_runs(name, len(results))
        steps = 1  # shown for runs that did not train at all
        for result in results:
            steps = max(steps, result.get("steps") or 0)
        progress.step(steps, steps)


class JoblibLauncher(EngineLauncher):
    """``hydra/launcher=joblib``."""

    def run_tasks(self, tasks: Sequence[Any]) -> Outcomes:
        """Runs the tasks in processes of this machine."""
        from joblib import effective_n_jobs

        from research.sweeps.engines import run_with_joblib

        num_workers = min(len(tasks), effective_n_jobs(self.settings["n_jobs"]))
        return run_with_joblib(tasks, num_workers=num_workers)


class SubmititLauncher(EngineLauncher):
    """``hydra/launcher=submitit_local`` and ``submitit_slurm``."""

    def run_tasks(self, tasks: Sequence[Any]) -> Outcomes:
        """Runs the tasks as an array of submitit jobs."""
        from research.sweeps.engines import run_with_submitit

        sweep_directory = Path(str(self.config.hydra.sweep.dir)).absolute()
        return run_with_submitit(
            tasks,
            cluster=self.settings["cluster"],
            folder=sweep_directory / ".submitit" / "%j",
            settings=self._submitit_settings(),
        )

    def _submitit_settings(self) -> dict[str, Any]:
        """The settings by submitit's names, which has a prefix for those of Slurm alone."""
        settings = {}
        for name, value in self.settings.items():
            if name == "cluster" or value is None:
                continue
            if name not in SubmititLocalConf.__dataclass_fields__:
                name = f"slurm_{name}"
            settings[name] = value
        return settings


class RayLauncher(EngineLauncher):
    """``hydra/launcher=ray``."""

    def run_tasks(self, tasks: Sequence[Any]) -> Outcomes:
        """Runs the tasks as Ray tasks."""
        from research.sweeps.engines import run_with_ray

        return run_with_ray(tasks, init=self.settings["init"], remote=self.settings["remote"])
