"""Shortcuts: how a block's input and its branch are put together."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.models.architecture import Architecture, ForwardContext
from research.models.dense import make_linear
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part
from research.parallel.collectives import sample_then_shard

LEARNED_SCALE = {
    "rezero": 0.0,
    "fixup": 1.0,
}  # what α begins as; that of skipinit is a number of the program
GATED = ("highway", "gated")


class Skip(nnx.Module):
    """The shortcut around one layer, from its input h and its branch F(h).

    ``none``: F(h). ``identity``: h + F(h) (He et al. 2016). ``scaled``: s·h + a·F(h), with s and a arguments of the
    program (He et al. 2016b, §3.1). ``inv_sqrt_depth``: h + F(h)/√N (Hayou et al. 2021). ``rezero``: h + α·F(h), α
    learned from 0 (Bachlechner et al. 2020). ``skipinit``: the same from ``skip.branch_scale`` (De & Smith 2020).
    ``fixup``: the same from 1, the branch begun at 0 (Zhang, Dauphin, Ma 2019). ``highway``: t·F(h) + (1−t)·h with
    t = σ(W_t h + b_t) (Srivastava, Greff, Schmidhuber 2015, eq. 3; F as everywhere here begins with its nonlinearity,
    where theirs ends with it). ``gated``: F(h) + (1−t)·h, the shortcut-only gate (He et al. 2016b, §3.1).
    ``projection``: W_s h + F(h), 1×1 and normalised where there is a norm (ibid.). ``dropout``: mask·h + F(h) in
    training and (1−rate)·h + F(h) in evaluation (ibid.). ``stochastic_depth``: the branch of layer l left out with
    probability rate·l/N for the whole batch, in evaluation multiplied by what is left (Huang et al. 2016, eq. 2 to 5).
    ``deepnorm``: α·h + F(h) (Wang et al. 2022). ``dense``: F(h) written behind what h holds already (Huang et
    al. 2017).

    Where a layer changes the shape, the shortcut is subsampled, and widened with zeros (``pad``: He et al. 2016,
    option A) or by a normalised 1×1 map (``projection``: option B).
    """

    def __init__(self, arch: Architecture, part: Part, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.kind = arch.skip
        self.arch = arch
        self.part = part
        learned = self.kind == "projection" or (part.reshapes and arch.transition == "projection")
        if self.kind != "none" and learned:
            self.projection = make_linear(
                part.inputs, part.outputs, **arch.weights(hp, rngs, bias=False)
            )
            self.norm = make_norm(
                arch.norm, part.outputs, groups=arch.groups, **arch.formats, rngs=rngs
            )
        if self.kind in (*LEARNED_SCALE, "skipinit"):
            start = hp["skip.branch_scale"] if self.kind == "skipinit" else LEARNED_SCALE[self.kind]
            self.alpha = nnx.Param(jnp.asarray(start, arch.param_dtype))
        if self.kind in GATED:
            small = jax.nn.initializers.normal(0.1 * part.outputs**-0.5)

            def bias(key, shape, dtype):
                return jnp.full(shape, hp["skip.gate_bias"], dtype)

            gate = {"kernel_init": small, "bias_init": bias, **arch.formats, "rngs": rngs}
            self.gate = nnx.Linear(part.outputs, part.outputs, **gate)

    def _shortcut(self, h: Array, train: bool) -> Array:
        h = h[:, :: self.part.stride, :: self.part.stride] if self.part.stride > 1 else h
        if hasattr(self, "projection"):
            return apply_norm(self.norm, self.projection(h), train=train)
        wider = self.part.outputs - self.part.inputs
        return jnp.pad(h, [(0, 0)] * (h.ndim - 1) + [(0, wider)]) if wider else h

    def __call__(
        self, h: Float[Array, "..."], branch: Float[Array, "..."], ctx: ForwardContext, layer: Array
    ) -> Float[Array, "..."]:
        """The output of layer ``layer`` (0..N-1)."""
        if self.kind == "none":
            return branch
        if self.kind == "dense":
            return jax.lax.dynamic_update_slice_in_dim(h, branch, self.arch.written(layer), -1)
        return self._sum(self._shortcut(h, ctx.train), branch, ctx, layer)

    def _sum(self, h: Array, branch: Array, ctx: ForwardContext, layer: Array) -> Array:
        def number(value):
            return jnp.asarray(value).astype(h.dtype)

        match self.kind:
            case "identity" | "projection":
                return h + branch
            case "scaled":
                return (
                    number(ctx.hp["skip.shortcut_scale"]) * h
                    + number(ctx.hp["skip.branch_scale"]) * branch
                )
            case "inv_sqrt_depth":
                return h + branch * self.arch.layers**-0.5
            case "rezero" | "skipinit" | "fixup":
                return h + number(self.alpha[...]) * branch
            case "highway" | "gated":
                t = jax.nn.sigmoid(self.gate(h))
                return (t * branch if self.kind == "highway" else branch) + (1 - t) * h
            case "dropout":
                return number(_kept(ctx, layer, ctx.hp["skip.rate"], h.shape)) * h + branch
            case "stochastic_depth":
                rate = ctx.hp["skip.rate"] * (layer + 1) / self.arch.layers
                return h + number(_kept(ctx, layer, rate, ())) * branch
            case "deepnorm":
                return self.arch.deepnorm[0] * h + branch
        raise ValueError(f"skip must be one of those described above, got {self.kind}")


def _kept(ctx: ForwardContext, layer: Array, rate: Array, shape: tuple[int, ...]) -> Array:
    """In training 1 or, with probability ``rate``, 0; in evaluation its mean."""
    if not ctx.train:
        return 1 - rate
    return sample_then_shard(
        partial(jax.random.bernoulli, ctx.layer_key(layer, 0), 1 - rate), shape
    )
