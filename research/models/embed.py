"""Embeddings, which turn an example into the input of the first layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import ModelKind, Norm, Padding, Positions, Transformer
from research.models.activation import ACTIVATIONS
from research.models.architecture import Architecture
from research.models.conv import Conv
from research.models.dense import make_linear
from research.models.hparams import HParams
from research.models.norm import apply_norm, make_norm
from research.models.units import read


def make_embed(
    arch: Architecture,
    hp: HParams,
    *,
    rngs: nnx.Rngs,
) -> Any:
    """The embedding; None for a recurrent network whose cell reads numbers as they are.

    Args:
        arch: the network.
        hp: the hyperparameters.
        rngs: random keys.
    """
    match arch.model.kind:
        case ModelKind.mlp:
            return make_linear(arch.inputs, arch.model.width, **arch.linear_kwargs(hp, rngs))
        case ModelKind.transformer:
            return SequenceEmbedding(arch, hp, rngs=rngs)
        case ModelKind.rnn:
            has_table = arch.vocabulary and not arch.one_hot
            return TokenEmbedding(arch, rngs=rngs) if has_table else None
    return Stem(arch, hp, rngs=rngs)


class Stem(nnx.Module):
    """Images to the first stage.

    A 3×3 convolution; of ``resnet`` 7×7 with stride 2, followed by 3×3 max pooling with stride 2.
    In ResNets it is normalised and activated where their blocks' outputs are (He et al. 2016, Table
    1 and §4.2).
    """

    def __init__(
        self,
        arch: Architecture,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        self.arch = arch
        self.pools = arch.model.kind is ModelKind.resnet
        width = arch.model.width
        has_bias = arch.model.bias and not arch.normalises_inside
        self.conv = Conv(
            _image_shape(arch)[-1],
            width,
            size=7 if self.pools else 3,
            stride=2 if self.pools else 1,
            padding=getattr(arch.model, "padding", Padding.zero).name,
            **arch.linear_kwargs(hp, rngs, bias=has_bias),
        )
        norm = arch.norm if arch.activates_sum else Norm()
        self.norm = make_norm(norm, width, **arch.formats, rngs=rngs)

    def __call__(self, x: Float[Array, "B inputs"], train: bool) -> Float[Array, "B H W D"]:
        """The first stage's input."""
        images = x.reshape(-1, *_image_shape(self.arch))
        h = apply_norm(self.norm, self.conv(images), train=train)
        if self.arch.activates_sum:
            h = ACTIVATIONS[self.arch.activation.kind.name](h)
        if not self.pools:
            return h
        sides: Any = ((1, 1), (1, 1))  # nnx types it as a name alone
        return nnx.max_pool(h, (3, 3), strides=(2, 2), padding=sides)


def _image_shape(arch: Architecture) -> tuple[int, int, int]:
    """Height, width and channels."""
    height, width, *_ = arch.shape
    return height, width, arch.inputs // (height * width)


class TokenEmbedding(nnx.Module):
    """A learned vector for each token, initially from N(0, 1/D)."""

    def __init__(self, arch: Architecture, *, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(arch.dtype)
        initializer = jax.nn.initializers.normal(arch.model.width**-0.5)
        shape = (arch.vocabulary, arch.model.width)
        self.vectors = nnx.Param(_draw_wide(initializer, rngs, shape, arch.param_dtype))

    def __call__(self, tokens: Array, train: bool) -> Float[Array, "B T D"]:
        """The tokens' vectors."""
        # The gradient of a frequent token is a sum over many positions.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return read(self.vectors, wide)[tokens].astype(self.dtype)


class SequenceEmbedding(nnx.Module):
    """A vector for each position of a sequence, plus a vector that encodes the position.

    The positions of an example that holds numbers are its first axis.
    """

    def __init__(
        self,
        arch: Architecture,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        self.arch = arch
        length = arch.shape[0]
        width = arch.model.width
        if arch.vocabulary and not arch.one_hot:
            self.table = TokenEmbedding(arch, rngs=rngs)
        else:
            numbers = arch.vocabulary or arch.inputs // length
            self.linear = make_linear(numbers, width, **arch.linear_kwargs(hp, rngs))
        assert isinstance(arch.model, Transformer)
        has_positions = arch.model.positions is Positions.learned
        self.positions = _make_positions(arch, length, rngs) if has_positions else None

    def __call__(self, x: Array, train: bool) -> Float[Array, "B T D"]:
        """The first layer's input."""
        if hasattr(self, "table"):
            h = self.table(x, train)
        else:
            length = self.arch.shape[0]
            vectors = unit_vectors(self.arch, x).reshape(len(x), length, -1)
            h = self.linear(vectors)
        if self.positions is None:
            return h
        return h + read(self.positions, h.dtype)[None]


def _make_positions(
    arch: Architecture,
    length: int,
    rngs: nnx.Rngs,
) -> nnx.Param:
    initializer = jax.nn.initializers.normal(0.02)  # Radford et al. 2018
    shape = (length, arch.model.width)
    return nnx.Param(_draw_wide(initializer, rngs, shape, arch.param_dtype))


def unit_vectors(arch: Architecture, x: Array) -> Array:
    """Tokens [B, T] as unit vectors [B, T, V] where ``one_hot`` asks for them; otherwise ``x``."""
    if arch.vocabulary and arch.one_hot:
        return jax.nn.one_hot(x, arch.vocabulary, dtype=arch.dtype)
    return x


def _draw_wide(
    initializer: jax.nn.initializers.Initializer,
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    dtype: str,
) -> Array:
    """Draws in float32 or wider and rounds to ``dtype``."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return initializer(rngs.params(), shape, wide).astype(dtype)
