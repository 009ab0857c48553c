"""Settings of every test of this room."""

import pytest

from research.training.precision import precision_context


@pytest.fixture(autouse=True)
def _fast_compile(quickly_compiled):
    """No test of this room depends on how well code is optimised."""


@pytest.fixture
def float64():
    """Computes in float64."""
    with precision_context("float64"):
        yield
