"""Shortcuts: how the input of a block and its branch are combined."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import (
    DenseSkip,
    GatedSkip,
    RandomSkip,
    ScaledSkip,
    SkipInit,
    SkipKind,
    StreamSkip,
    Transition,
)
from research.config.options import Skip as SkipOption
from research.models.architecture import Architecture, ForwardContext
from research.models.dense import make_linear
from research.models.hparams import HParams
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part
from research.models.streams import StreamMixing
from research.models.units import pad_units
from research.parallel.collectives import sample_then_shard

INITIAL_ALPHA = {SkipKind.rezero: 0.0, SkipKind.fixup: 1.0}


class Skip(nnx.Module):
    """The shortcut around one layer, from its input h and its branch F(h).

    - ``none``: F(h).
    - ``identity``: h + F(h) (He et al. 2016).
    - ``scaled``: s·h + a·F(h), with s and a arguments of the program (He et al. 2016b, §3.1).
    - ``inv_sqrt_depth``: h + F(h)/√N (Hayou et al. 2021).
    - ``rezero``: h + α·F(h) with a learned α, initially 0 (Bachlechner et al. 2020).
    - ``skipinit``: the same with α initially ``skip.branch_scale`` (De & Smith 2020).
    - ``fixup``: the same with α initially 1 and a branch that is initially 0 (Zhang, Dauphin, Ma
      2019).
    - ``highway``: t·F(h) + (1−t)·h with t = σ(W_t h + b_t) (Srivastava, Greff, Schmidhuber 2015,
      eq. 3; here the nonlinearity is the first step of F, there it is the last).
    - ``gated``: F(h) + (1−t)·h, the shortcut-only gate (He et al. 2016b, §3.1).
    - ``projection``: W_s h + F(h), 1×1 and normalised where there is a norm (ibid.).
    - ``dropout``: mask·h + F(h) in training and (1−rate)·h + F(h) in evaluation (ibid.).
    - ``stochastic_depth``: in training the branch of layer l is left out with probability rate·l/N
      for the whole batch; in evaluation it is multiplied by the probability that it stays (Huang et
      al. 2016, eq. 2 to 5).
    - ``deepnorm``: α·h + F(h) (Wang et al. 2022).
    - ``dense``: F(h) becomes the next units of h (Huang et al. 2017).
    - ``hyper``, ``mhc``: h holds several streams, see ``StreamMixing`` (Zhu et al. 2024, Xie et al.
      2025).

    Where a layer changes the shape, the shortcut is subsampled, and widened with zeros (``pad``: He
    et al. 2016, option A) or by a normalised 1×1 map (``projection``: option B).
    """

    def __init__(
        self,
        arch: Architecture,
        part: Part,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
        layer: Array | None = None,
    ):
        self.arch = arch
        self.part = part
        if _has_projection(arch, part):
            kwargs = arch.linear_kwargs(hp, rngs, bias=False)
            self.projection = make_linear(part.inputs, part.outputs, **kwargs)
            self.norm = make_norm(arch.norm, part.outputs, **arch.formats, rngs=rngs)
        match hp.skip:
            case SkipInit(branch_scale=alpha):
                self.alpha = nnx.Param(jnp.asarray(alpha, arch.param_dtype))
            case SkipOption(kind=SkipKind.rezero | SkipKind.fixup as kind):
                self.alpha = nnx.Param(jnp.asarray(INITIAL_ALPHA[kind], arch.param_dtype))
            case GatedSkip(gate_bias=gate_bias):
                self.gate = _make_gate(arch, part.outputs, gate_bias, rngs)
            case StreamSkip() as streams:
                number = jnp.int32(0) if layer is None else layer
                param_dtype = jnp.dtype(arch.param_dtype)
                self.streams = StreamMixing(streams, number, param_dtype=param_dtype, rngs=rngs)

    def read(self, h: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the branch reads of the layer's input: all of it, or a mixture of its streams."""
        return self.streams.read(h) if self.arch.has_streams else h

    def __call__(
        self,
        h: Float[Array, "..."],
        branch: Float[Array, "..."],
        ctx: ForwardContext,
        layer: Array,
    ) -> Float[Array, "..."]:
        """The output of layer ``layer``.

        Args:
            h: the layer's input.
            branch: the output of its branch.
            ctx: the context of the pass.
            layer: the layer's number, from 0 to N-1.
        """
        match self.arch.skip:
            case SkipOption(kind=SkipKind.none):
                return branch
            case DenseSkip():
                start = self.arch.num_active_units(layer)
                return jax.lax.dynamic_update_slice_in_dim(h, branch, start, -1)
        return self._combine(self._shortcut(h, ctx.train), branch, ctx, layer)

    def _shortcut(self, h: Array, train: bool) -> Array:
        """The input in the shape of the output."""
        stride = self.part.stride
        if stride > 1:
            h = h[:, ::stride, ::stride]
        if hasattr(self, "projection"):
            return apply_norm(self.norm, self.projection(h), train=train)
        return pad_units(h, self.part.outputs - self.part.inputs)

    def _combine(
        self,
        h: Array,
        branch: Array,
        ctx: ForwardContext,
        layer: Array,
    ) -> Array:
        def cast(value: Array | float) -> Array:
            return jnp.asarray(value).astype(h.dtype)

        match ctx.hp.skip:
            case ScaledSkip(shortcut_scale=shortcut_scale, branch_scale=branch_scale):
                return cast(shortcut_scale) * h + cast(branch_scale) * branch
            case GatedSkip(kind=kind):
                gate = jax.nn.sigmoid(self.gate(h))
                gated_branch = gate * branch if kind is SkipKind.highway else branch
                return gated_branch + (1 - gate) * h
            case RandomSkip(kind=SkipKind.dropout, rate=rate):
                return cast(_keep_mask(ctx, layer, rate, h.shape)) * h + branch
            case RandomSkip(rate=rate):
                layer_rate = rate * (layer + 1) / self.arch.layers
                return h + cast(_keep_mask(ctx, layer, layer_rate, ())) * branch
            case SkipOption(kind=SkipKind.identity | SkipKind.projection):
                return h + branch
            case SkipOption(kind=SkipKind.inv_sqrt_depth):
                return h + branch * self.arch.layers**-0.5
            case SkipOption(kind=SkipKind.rezero | SkipKind.skipinit | SkipKind.fixup):
                return h + cast(self.alpha[...]) * branch
            case StreamSkip():
                return self.streams.mix(h, branch)
            case SkipOption(kind=SkipKind.deepnorm):
                return self.arch.deepnorm_alpha * h + branch
        raise ValueError(f"skip must be one of those described above, got {ctx.hp.skip.kind.name}")


def _has_projection(arch: Architecture, part: Part) -> bool:
    """Whether the shortcut has weights."""
    if arch.skip.kind is SkipKind.none:
        return False
    transition = getattr(arch.model, "transition", Transition.pad)
    option_b = part.reshapes and transition is Transition.projection
    return arch.skip.kind is SkipKind.projection or option_b


def _make_gate(
    arch: Architecture,
    width: int,
    gate_bias: Any,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    def initial_bias(
        key: Array,
        shape: tuple[int, ...],
        dtype: jnp.dtype,
    ) -> Array:
        del key
        return jnp.full(shape, gate_bias, dtype)

    gate: dict[str, Any] = dict(arch.formats)
    gate["kernel_init"] = jax.nn.initializers.normal(0.1 * width**-0.5)
    gate["bias_init"] = initial_bias
    return nnx.Linear(width, width, **gate, rngs=rngs)


def _keep_mask(
    ctx: ForwardContext,
    layer: Array,
    rate: Any,
    shape: tuple[int, ...],
) -> Array:
    """In training 1 or, with probability ``rate``, 0; in evaluation its mean."""
    if not ctx.train:
        return 1 - rate
    draw = partial(jax.random.bernoulli, ctx.layer_key(layer, 0), 1 - rate)
    return sample_then_shard(draw, shape)
