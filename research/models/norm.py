"""Normalisations by name; statistics are taken in float32 or wider."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.parallel import collectives as sharing


def make_norm(
    kind: str,
    width: int,
    *,
    groups: int = 1,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    """The normalisation of ``width`` units or channels; None for ``none``.

    ``layer`` and ``rms`` over the last axis, ``batch`` over all others, ``group`` over the units of each of ``groups``
    groups and, of images, over their pixels; ``dyt`` is tanh(α·h) instead of one. All learn a scale, and all but
    ``rms`` a shift.

    References:
        Ba, Kiros, Hinton, Layer Normalization, 2016. Ioffe & Szegedy, Batch Normalization, 2015. Zhang & Sennrich, Root
        Mean Square Layer Normalization, 2019. Wu & He, Group Normalization, 2018. Zhu et al., Transformers without
        Normalization, 2025.
    """
    formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    match kind:
        case "none":
            return None
        case "layer":
            return nnx.LayerNorm(width, use_fast_variance=False, **formats)
        case "batch":
            wide = jnp.promote_types(
                dtype, jnp.float32
            )  # or running statistics would be rounded in evaluation
            formats["dtype"] = wide
            return nnx.BatchNorm(
                width, momentum=0.9, use_fast_variance=False, axis_name=sharing.axis(), **formats
            )
        case "rms":
            return nnx.RMSNorm(width, **formats)
        case "group":
            return nnx.GroupNorm(width, groups, use_fast_variance=False, **formats)
        case "dyt":
            return DynamicTanh(width, dtype=dtype, param_dtype=param_dtype)
    raise ValueError(f"norm must be none, layer, batch, rms, group or dyt, got {kind}")


class DynamicTanh(nnx.Module):
    """γ·tanh(α·h) + β, with the scalar α learned from 0.5 (Zhu et al. 2025, eq. 3)."""

    def __init__(self, width: int, *, dtype: jnp.dtype, param_dtype: jnp.dtype):
        self.dtype = dtype
        self.alpha = nnx.Param(jnp.full((), 0.5, param_dtype))
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype))

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, "..."]:
        """Squashes ``h``, whose last axis holds the units."""
        alpha, scale, bias = (
            leaf[...].astype(self.dtype) for leaf in (self.alpha, self.scale, self.bias)
        )
        row = (1,) * (h.ndim - 1) + (-1,)
        return scale.reshape(row) * jnp.tanh(alpha * h) + bias.reshape(row)


def apply_norm(
    norm: nnx.Module | None, h: Float[Array, "..."], *, train: bool
) -> Float[Array, "..."]:
    """Normalises ``h``; batch norm uses the batch's statistics in training and its running ones otherwise.

    Positions of a sequence [B, T, D] are normalised each by itself.
    """
    if norm is None:
        return h
    if isinstance(norm, nnx.GroupNorm) and h.ndim == 3:
        return norm(h.reshape(-1, h.shape[-1])).reshape(h.shape)
    if isinstance(norm, nnx.BatchNorm):
        return norm(h, use_running_average=not train).astype(h.dtype)
    return norm(h)
