"""Configurations composed from ``conf/``, for which each file is parsed once in a process."""

import functools

from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from research.config.hydra_config import register_with_hydra, resource_dir
from research.sweeps.composition import CachingLoader


@functools.cache
def caching_loader() -> CachingLoader:
    """The loader with which ``fathom train`` composes."""
    register_with_hydra()
    return CachingLoader(create_config_search_path(str(resource_dir("conf").absolute())))


def compose(*overrides: str) -> DictConfig:
    """What ``hydra.compose`` returns for ``conf/config.yaml`` and these overrides."""
    composed = caching_loader().load_configuration("config", list(overrides), RunMode.RUN)
    with open_dict(composed):
        del composed["hydra"]
    return composed
