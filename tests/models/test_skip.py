"""Shortcuts by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research import config
from research.models.skip import Skip

KINDS = [option.name for option in config.SkipKind]
H, BRANCH = np.random.default_rng(0).standard_normal((2, 3, 4))
NUMBERS = {"skip.branch_scale": 0.7, "skip.shortcut_scale": 0.9}


def learned(kind, alpha=0.3, dtype="float32"):
    """The shortcut with its learned scale, where it has one, at ``alpha``."""
    skip = Skip(kind, 5, param_dtype=jnp.dtype(dtype))
    for leaf in jax.tree.leaves(nnx.state(skip, nnx.Param)):
        assert leaf == 0
        skip.alpha[...] = jnp.asarray(alpha, dtype)
    return skip


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind, formulas, make_numbers):
    out = learned(kind)(jnp.asarray(H, jnp.float32), jnp.asarray(BRANCH, jnp.float32), make_numbers(NUMBERS, runs=None))
    np.testing.assert_allclose(out, formulas["skip"][kind](H, BRANCH, 0.3, 5, NUMBERS), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_format_is_kept(kind, dtype, make_numbers):
    h, branch = jnp.asarray(H, dtype), jnp.asarray(BRANCH, dtype)
    for weights in (dtype, "float32"):
        assert learned(kind, dtype=weights)(h, branch, make_numbers(NUMBERS, runs=None)).dtype == h.dtype


def test_an_unknown_shortcut_is_refused(make_numbers):
    h = jnp.asarray(H)
    with pytest.raises(ValueError, match="got loop"):
        Skip("loop", 5, param_dtype=jnp.dtype("float32"))(h, h, make_numbers(runs=None))
