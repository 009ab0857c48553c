"""Settings of every test of this room."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _quickly_compiled():
    """Compiles about as quickly as possible: most of the time of these tests is compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
