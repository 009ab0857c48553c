"""Settings of every test: shapes checked at run time, no silent broadcasting over ranks, warnings are errors."""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(["research.models", "research.gauges", "research.training"], "beartype.beartype")

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
