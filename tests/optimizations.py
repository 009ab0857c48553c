"""Whether JAX optimises what it compiles."""

import contextlib
from collections.abc import Iterator

import jax

SETTING = "jax_disable_most_optimizations"


@contextlib.contextmanager
def optimizations(*, disabled: bool) -> Iterator[None]:
    """Compiles with few optimizations, which is quick, or with all of them."""
    before = jax.config.read(SETTING)
    jax.config.update(SETTING, disabled)
    try:
        yield
    finally:
        jax.config.update(SETTING, before)
