"""Shortcuts: how a block's input and its branch are put together."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Skip(nnx.Module):
    """The shortcut around one block.

    ``none``: F(h). ``identity``: h + F(h) (He et al. 2016). ``scaled``: s·h + a·F(h), with s and a arguments of the
    program (He et al. 2016b, §3.1). ``inv_sqrt_depth``: h + F(h)/√N (Hayou et al. 2021). ``rezero``: h + α·F(h),
    α learned from 0 (Bachlechner et al. 2020).
    """

    def __init__(self, kind: str, depth: int, *, param_dtype: jnp.dtype):
        self.kind = kind
        self.depth = depth
        if kind == "rezero":
            self.alpha = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(
        self, h: Float[Array, "..."], branch: Float[Array, "..."], hp: Mapping[str, Array]
    ) -> Float[Array, "..."]:
        """The block's output from its input ``h`` and its branch F(h), both of one shape."""
        match self.kind:
            case "none":
                return branch
            case "identity":
                return h + branch
            case "scaled":
                shortcut, scale = hp["skip.shortcut_scale"], hp["skip.branch_scale"]
                return shortcut.astype(h.dtype) * h + scale.astype(h.dtype) * branch
            case "inv_sqrt_depth":
                return h + branch * self.depth**-0.5
            case "rezero":
                return h + self.alpha[...].astype(h.dtype) * branch
        raise ValueError(f"skip must be none, identity, scaled, inv_sqrt_depth or rezero, got {self.kind}")
