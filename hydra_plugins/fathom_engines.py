"""Launchers that have groups of runs trained elsewhere: ``joblib``, ``submitit_local``, ``submitit_slurm``, ``ray``.

A job is a group of ``max_group_size`` runs, of one unless it is asked for more; null: all that share a program.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.fathom_grouped_launcher import GroupedLauncher, GroupedLauncherConf

HERE = "hydra_plugins.fathom_engines"


@dataclass
class JoblibConf(GroupedLauncherConf):
    """Several processes of this machine."""

    _target_: str = f"{HERE}.JoblibLauncher"
    devices: int | None = 1
    max_group_size: int | None = 1
    n_jobs: int = -1  # processes at once; -1: one for each core


@dataclass
class SubmititLocalConf(GroupedLauncherConf):
    """Jobs as a cluster has them, on this machine, all at once; the names are those of submitit."""

    _target_: str = f"{HERE}.SubmititLauncher"
    devices: int | None = 1
    max_group_size: int | None = 1
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
    """An array of Slurm jobs; the names are those of submitit, without its prefix."""

    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256
    signal_delay_s: int = 120
    setup: list[str] | None = None  # lines of the shell before the job
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # what else sbatch knows


@dataclass
class RayConf(GroupedLauncherConf):
    """Tasks of Ray; what ``ray.init`` and ``ray.remote`` take."""

    _target_: str = f"{HERE}.RayLauncher"
    devices: int | None = 1
    max_group_size: int | None = 1
    init: dict[str, Any] = field(
        default_factory=dict
    )  # address: a cluster's; none: one is started here
    remote: dict[str, Any] = field(default_factory=dict)  # num_cpus, num_gpus of a job


CONFIGURATIONS = {
    "joblib": JoblibConf,
    "submitit_local": SubmititLocalConf,
    "submitit_slurm": SubmititSlurmConf,
    "ray": RayConf,
}
for _name, _node in CONFIGURATIONS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="fathom")


class _EngineLauncher(GroupedLauncher):
    """Has the groups trained by an engine; what takes a job along is the failure of its runs alone."""

    def __init__(
        self, map_mode: Any, devices: int | None, max_group_size: int | None, **settings: Any
    ):
        super().__init__(map_mode, devices, max_group_size)
        self.settings: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for name, value in settings.items()
        }

    def engine(self, loads: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields the number of each load with what came of it."""
        raise NotImplementedError

    def trained(
        self, groups: Sequence[dict[int, Sequence[str]]]
    ) -> Iterator[tuple[dict[int, Any], list[Any]]]:
        """Each group with what came of its runs, as they end."""
        from research.runner.session import Session
        from research.sweeps.engines import Load

        loads = [
            Load(self.members(group), self.map_mode.name, self.devices, Path.cwd())
            for group in groups
        ]
        for number, outcome in self.engine(loads):
            load = loads[number]
            results = load.failed(outcome) if isinstance(outcome, BaseException) else outcome
            several = len(results) > 1
            Session.progress.start_runs(
                f"{len(results)} runs" if several else load.members[0].directory.name, len(results)
            )
            steps = max((result.get("steps") or 0 for result in results), default=0)
            Session.progress.step(steps or 1, steps or 1)
            yield groups[number], results


class JoblibLauncher(_EngineLauncher):
    """``hydra/launcher=joblib``."""

    def engine(self, loads: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Processes of this machine."""
        from joblib import effective_n_jobs

        from research.sweeps.engines import on_processes

        return on_processes(loads, jobs=min(len(loads), effective_n_jobs(self.settings["n_jobs"])))


class SubmititLauncher(_EngineLauncher):
    """``hydra/launcher=submitit_local`` and ``submitit_slurm``."""

    def engine(self, loads: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Jobs of a cluster; submitit wants the names of Slurm's own settings with a prefix."""
        from research.sweeps.engines import as_jobs

        settings = {
            name: value
            for name, value in self.settings.items()
            if value is not None and name != "cluster"
        }
        shared = SubmititLocalConf.__dataclass_fields__
        prefixed = {
            name if name in shared else f"slurm_{name}": value for name, value in settings.items()
        }
        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / ".submitit" / "%j"
        return as_jobs(loads, cluster=self.settings["cluster"], folder=folder, settings=prefixed)


class RayLauncher(_EngineLauncher):
    """``hydra/launcher=ray``."""

    def engine(self, loads: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Tasks of Ray."""
        from research.sweeps.engines import on_ray

        return on_ray(loads, init=self.settings["init"], remote=self.settings["remote"])
