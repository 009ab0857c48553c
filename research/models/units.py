"""Operations on the last axis of a signal, which holds its units or channels."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def align_units(vector: Array, h: Array) -> Array:
    """A value for each unit [D], with as many axes as ``h``."""
    leading_axes = (1,) * (h.ndim - 1)
    return vector.reshape(*leading_axes, -1)


def pad_units(h: Float[Array, "..."], missing: int) -> Float[Array, "..."]:
    """Adds ``missing`` units of zeros after the others."""
    if not missing:
        return h
    no_padding = [(0, 0)] * (h.ndim - 1)
    padding = [*no_padding, (0, missing)]
    return jnp.pad(h, padding)


def read(param: nnx.Param, dtype: jnp.dtype) -> Array:
    """The value of a parameter in the number format of the arithmetic."""
    return param[...].astype(dtype)
