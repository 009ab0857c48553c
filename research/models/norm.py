"""Normalisations by name; statistics are computed in float32 or wider."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import AffineNorm, GroupNorm, Norm, NormKind
from research.models.units import align_units, read
from research.parallel import collectives


def make_norm(
    norm: Norm,
    width: int,
    *,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    """The normalisation of ``width`` units or channels; None for ``none``.

    ``layer`` and ``rms`` normalise over the last axis, ``batch`` over all others, ``group`` over
    the units of each group and, of images, over their pixels. ``dyt`` is tanh(α·h) instead of a
    normalisation. With ``affine`` all learn a scale, and all but ``rms`` a shift.

    Args:
        norm: the option.
        width: units or channels.
        dtype: number format of the arithmetic.
        param_dtype: number format of the parameters.
        rngs: random keys.

    Raises:
        ValueError: there is no such norm.

    References:
        Ba, Kiros, Hinton, Layer Normalization, 2016. Ioffe & Szegedy, Batch Normalization, 2015.
        Zhang & Sennrich, Root Mean Square Layer Normalization, 2019. Wu & He, Group Normalization,
        2018. Zhu et al., Transformers without Normalization, 2025.
    """
    formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    is_affine = isinstance(norm, AffineNorm) and norm.affine
    learned = {"use_scale": is_affine, "use_bias": is_affine}
    match norm:
        case GroupNorm(groups=groups):
            return nnx.GroupNorm(width, groups, use_fast_variance=False, **learned, **formats)
        case Norm(kind=NormKind.none):
            return None
        case Norm(kind=NormKind.layer):
            return nnx.LayerNorm(width, use_fast_variance=False, **learned, **formats)
        case Norm(kind=NormKind.batch):
            # In a narrower format evaluation would round the running statistics.
            formats["dtype"] = jnp.promote_types(dtype, jnp.float32)
            axis = collectives.axis()
            return nnx.BatchNorm(
                width,
                momentum=0.9,
                use_fast_variance=False,
                axis_name=axis,
                **learned,
                **formats,
            )
        case Norm(kind=NormKind.rms):
            return nnx.RMSNorm(width, use_scale=is_affine, **formats)
        case Norm(kind=NormKind.dyt):
            return DynamicTanh(width, affine=is_affine, dtype=dtype, param_dtype=param_dtype)
    raise ValueError(f"norm must be none, layer, batch, rms, group or dyt, got {norm.kind.name}")


class DynamicTanh(nnx.Module):
    """γ·tanh(α·h) + β, with a learned scalar α, initially 0.5 (Zhu et al. 2025, eq. 3).

    Without ``affine`` it is tanh(α·h).
    """

    def __init__(
        self,
        width: int,
        *,
        affine: bool,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
    ):
        self.dtype = dtype
        self.alpha = nnx.Param(jnp.full((), 0.5, param_dtype))
        self.is_affine = affine
        if affine:
            self.scale = nnx.Param(jnp.ones(width, param_dtype))
            self.bias = nnx.Param(jnp.zeros(width, param_dtype))

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, "..."]:
        """Squashes ``h``, whose last axis holds the units."""
        alpha = read(self.alpha, self.dtype)
        squashed = jnp.tanh(alpha * h)
        if not self.is_affine:
            return squashed
        scale = align_units(read(self.scale, self.dtype), h)
        bias = align_units(read(self.bias, self.dtype), h)
        return scale * squashed + bias


def apply_norm(
    norm: nnx.Module | None,
    h: Float[Array, "..."],
    *,
    train: bool,
) -> Float[Array, "..."]:
    """Normalises ``h``; each position of a sequence [B, T, D] is normalised by itself.

    Args:
        norm: what ``make_norm`` gave.
        h: the signal, with units or channels on its last axis.
        train: whether batch norm uses the batch's statistics instead of its running ones.
    """
    if norm is None:
        return h
    if isinstance(norm, nnx.GroupNorm) and h.ndim == 3:
        positions = h.reshape(-1, h.shape[-1])
        return norm(positions).reshape(h.shape)
    if isinstance(norm, nnx.BatchNorm):
        return norm(h, use_running_average=not train).astype(h.dtype)
    return norm(h)
