"""From an example to the stream of the first layer."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.models.activation import ACTIVATIONS
from research.models.architecture import Architecture
from research.models.conv import Conv
from research.models.dense import make_linear
from research.models.norm import apply_norm, make_norm


def make_embed(arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs) -> Any:
    """The embedding, a module; none for a recurrent network that reads numbers: its cell reads them as they are."""
    if arch.kind == "mlp":
        return make_linear(arch.inputs, arch.width, **arch.weights(hp, rngs))
    if arch.kind == "transformer":
        return Sequence(arch, hp, rngs=rngs)
    if arch.kind == "rnn":
        return Table(arch, rngs=rngs) if arch.vocabulary and not arch.one_hot else None
    return Stem(arch, hp, rngs=rngs)


class Stem(nnx.Module):
    """Images to the first stage: a 3×3 convolution; of ``resnet`` 7×7 with stride 2 and 3×3 max pooling with stride 2.

    Of ResNets normalised, and activated where their stream is (He et al. 2016, Table 1 and §4.2).
    """

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.arch = arch
        self.pools = arch.kind == "resnet"
        size, stride = (7, 2) if self.pools else (3, 1)
        how = arch.weights(hp, rngs, bias=arch.bias and not arch.normalises_inside)
        self.conv = Conv(
            _image(arch)[-1], arch.width, size=size, stride=stride, padding=arch.padding, **how
        )
        kind = arch.norm if arch.activates_sum else "none"
        self.norm = make_norm(kind, arch.width, groups=arch.groups, **arch.formats, rngs=rngs)

    def __call__(self, x: Float[Array, "B inputs"], train: bool) -> Float[Array, "B H W D"]:
        """The first stage's input."""
        h = apply_norm(self.norm, self.conv(x.reshape(-1, *_image(self.arch))), train=train)
        h = ACTIVATIONS[self.arch.activation](h) if self.arch.activates_sum else h
        if not self.pools:
            return h
        sides: Any = ((1, 1), (1, 1))  # typed as a name alone
        return nnx.max_pool(h, (3, 3), strides=(2, 2), padding=sides)


def _image(arch: Architecture) -> tuple[int, int, int]:
    """Height, width and channels."""
    height, width, *_ = arch.shape
    return height, width, arch.inputs // (height * width)


class Table(nnx.Module):
    """A learned vector for each token, drawn from N(0, 1/D)."""

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(arch.dtype)
        draw = jax.nn.initializers.normal(arch.width**-0.5)
        self.vectors = nnx.Param(
            _drawn(draw, rngs, (arch.vocabulary, arch.width), arch.param_dtype)
        )

    def __call__(self, tokens: Array, train: bool) -> Float[Array, "B T D"]:
        """The tokens' vectors."""
        wide = jnp.promote_types(
            self.dtype, jnp.float32
        )  # a frequent token's gradient is a sum over many places
        return self.vectors[...].astype(wide)[tokens].astype(self.dtype)


class Sequence(nnx.Module):
    """Tokens, or the first axis of an example as positions, to vectors; with a learned vector a position or none."""

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.arch = arch
        length = arch.shape[0]
        if arch.vocabulary and not arch.one_hot:
            self.table = Table(arch, rngs=rngs)
        elif arch.vocabulary:
            self.linear = make_linear(arch.vocabulary, arch.width, **arch.weights(hp, rngs))
        else:
            self.linear = make_linear(arch.inputs // length, arch.width, **arch.weights(hp, rngs))
        shape = (length, arch.width)
        draw = jax.nn.initializers.normal(0.02)  # Radford et al. 2018
        learned = arch.positions == "learned"
        self.positions = nnx.Param(_drawn(draw, rngs, shape, arch.param_dtype)) if learned else None

    def __call__(self, x: Array, train: bool) -> Float[Array, "B T D"]:
        """The stream of positions."""
        if hasattr(self, "table"):
            h = self.table(x, train)
        else:
            h = self.linear(unit_vectors(self.arch, x).reshape(len(x), self.arch.shape[0], -1))
        return h if self.positions is None else h + self.positions[...].astype(h.dtype)[None]


def unit_vectors(arch: Architecture, x: Array) -> Array:
    """Tokens [B, T] as unit vectors [B, T, V], where the architecture reads them so; else ``x`` as it is."""
    return (
        jax.nn.one_hot(x, arch.vocabulary, dtype=arch.dtype)
        if arch.vocabulary and arch.one_hot
        else x
    )


def _drawn(
    draw: jax.nn.initializers.Initializer, rngs: nnx.Rngs, shape: tuple[int, ...], dtype: str
) -> Array:
    wide = jnp.promote_types(dtype, jnp.float32)
    return draw(rngs.params(), shape, wide).astype(dtype)
