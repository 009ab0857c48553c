"""Many jobs composed cheaply: Hydra once for each choice of groups, then the values that differ. No jax."""

import dataclasses
import functools
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from research.config.hydra_config import register, resource_dir
from research.runner.run_spec import RunSpec, checked_config
from research.records.runs import flatten_dict


class Composer(ConfigLoaderImpl):
    """Hydra's loader, but for a sweep's jobs: what they share is composed once. The result is the same."""

    def __init__(self, loader: ConfigLoader):
        assert isinstance(loader, ConfigLoaderImpl)
        super().__init__(loader.config_search_path)
        self._bases: dict[tuple[str, ...], bytes] = {}
        self._workpieces: dict[tuple[str, ...], DictConfig] = {}
        self._checked: dict[tuple[str, ...], RunSpec] = {}
        self._is_group = functools.cache(self.repository.group_exists)
        self._parsed = functools.cache(OverridesParser.create().parse_override)

    @classmethod
    def of(cls, loader: ConfigLoader) -> "Composer":
        """The loader itself where it is one already, with all that it has composed."""
        return loader if isinstance(loader, cls) else cls(loader)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """The configuration of one job."""
        parsed = [self._parsed(override) for override in sweep_overrides]
        return self._changed(self._base(master_config, parsed), parsed)

    def _base(self, master: DictConfig, parsed: Sequence[Override]) -> DictConfig:
        """A configuration of the job's groups, of its own."""
        groups = tuple(override.input_line or "" for override in parsed if self._chooses(override))
        if groups not in self._bases:
            self._bases[groups] = pickle.dumps(super().load_sweep_config(master, list(groups)))
        return pickle.loads(self._bases[groups])  # half the time of a deepcopy

    def _workpiece(self, master: DictConfig, parsed: Sequence[Override]) -> DictConfig:
        """The same, used again by jobs that set the same settings: each of them is set anew, whatever it was."""
        if any(o.type != OverrideType.CHANGE or isinstance(o.value(), dict) for o in parsed):
            return self._base(master, parsed)  # what is added, taken away or merged would stay
        key = tuple((o.input_line if self._chooses(o) else o.key_or_group) or "" for o in parsed)
        if key not in self._workpieces:
            self._workpieces[key] = self._base(master, parsed)
        return self._workpieces[key]

    def _changed(self, composed: DictConfig, parsed: Sequence[Override]) -> DictConfig:
        """``composed`` with the values that the job sets."""
        try:
            self._apply_overrides_to_config(
                [override for override in parsed if not self._chooses(override)], composed
            )
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        settings = composed.hydra.job.config.override_dirname
        task = [override for override in parsed if not override.is_hydra_override()]
        composed.hydra.overrides.task = [override.input_line for override in task]
        composed.hydra.job.override_dirname = get_overrides_dirname(
            task,
            kv_sep=settings.kv_sep,
            item_sep=settings.item_sep,
            exclude_keys=settings.exclude_keys,
        )
        return composed

    def _chooses(self, override: Override) -> bool:
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def checked(self, master: DictConfig, overrides: Sequence[str]) -> RunSpec:
        """The job as a run, composed and checked once; its files are not among it.

        Raises:
            ValueError: naming the setting that is unknown or out of its range.
        """
        key = tuple(overrides)
        if key not in self._checked:
            parsed = [self._parsed(override) for override in overrides]
            composed = self._changed(self._workpiece(master, parsed), parsed)
            self._checked[key] = RunSpec(checked_config(composed), _directory(composed))
        return self._checked[key]

    def member(self, master: DictConfig, overrides: Sequence[str], number: int) -> RunSpec:
        """The job as a run, with the files that Hydra's own launcher would write beside the record."""
        member = self.checked(master, overrides)
        composed = self.load_sweep_config(master, overrides)
        with read_write(composed.hydra), open_dict(composed.hydra):
            composed.hydra.job.id = composed.hydra.job.num = number
            composed.hydra.runtime.output_dir = os.path.abspath(member.directory)
        parts = {
            "config": OmegaConf.masked_copy(
                composed, [str(name) for name in composed if name != "hydra"]
            ),
            "hydra": OmegaConf.masked_copy(composed, ["hydra"]),
            "overrides": composed.hydra.overrides.task,
        }
        resource_dir = composed.hydra.output_subdir
        files = (
            {f"{resource_dir}/{name}.yaml": OmegaConf.to_yaml(part) for name, part in parts.items()}
            if resource_dir
            else {}
        )
        return dataclasses.replace(member, files=files)


def composed_jobs(words: Sequence[str], jobs: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """What each job of a sweep is set to, by dotted path, unchecked; ``words`` are what the jobs have in common."""
    register()
    loader = Composer(
        ConfigLoaderImpl(create_config_search_path(str(resource_dir("conf").absolute())))
    )
    master = loader.load_configuration("config", list(words), run_mode=RunMode.MULTIRUN)
    for job in jobs:
        composed = loader.load_sweep_config(master, [*words, *job])
        own = {str(name): node for name, node in composed.items() if name != "hydra"}

        def plain(node):
            return (
                OmegaConf.to_container(node, enum_to_str=True)
                if OmegaConf.is_config(node)
                else node
            )

        yield flatten_dict({name: plain(node) for name, node in own.items()})


def _directory(composed: DictConfig) -> Path:
    return Path(str(OmegaConf.select(composed, "hydra.sweep.dir"))) / str(
        OmegaConf.select(composed, "hydra.sweep.subdir")
    )
