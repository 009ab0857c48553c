"""What a network is made of: its shapes and options, and what follows from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from research.models.plan import IMAGES, PLANS, RESNETS, Stage


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes and the operations of a network: all names and integers, hashable."""

    shape: tuple[int, ...]  # of an example, without the batch
    classes: int
    depth: int
    width: int
    bias: bool
    activation: str
    init: str
    skip: str
    norm: str
    placement: str
    dtype: str
    param_dtype: str
    kind: str = "mlp"
    vocabulary: int = 0  # tokens; 0: the examples are numbers
    language: bool = False  # a target at every position, which sees none behind it
    padded: bool = False  # token 0 stands behind the end of a text, and nothing may depend on it
    one_hot: bool = (
        False  # tokens are read as unit vectors by the first weights, without vectors of their own
    )
    groups: int = 8
    heads: int = 4
    expansion: int = 4
    positions: str = "learned"
    tied: bool = False
    cell: str = "elman"
    transition: str = "pad"
    padding: str = "zero"
    growth: int = 12
    dropout: bool = False
    recompute: bool = False
    rounding: str = (
        ""  # the format that what a layer reads, and the gradient there, are rounded through
    )
    tensor_scale: bool = (
        False  # whether each array is shifted to the top of that format's range first
    )

    def weights(self, hp: Mapping[str, Array], rngs: nnx.Rngs, **changes: Any) -> dict[str, Any]:
        """How every map with weights is made, as ``Conv`` and ``make_linear`` take it."""
        return {
            "init": self.init,
            "bias": self.bias,
            "hp": hp,
            **self.formats,
            "rngs": rngs,
        } | changes

    @property
    def formats(self) -> dict[str, jnp.dtype]:
        """The arithmetic's and the parameters' number formats, as layers take them."""
        return {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}

    @property
    def inputs(self) -> int:
        """Numbers, or tokens, in an example."""
        return math.prod(self.shape)

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages, in forward order."""
        return PLANS[self.kind](self)

    @property
    def layers(self) -> int:
        """N: the layers of all stages together."""
        return sum(stage.blocks * len(stage.parts) for stage in self.plan)

    @property
    def stream(self) -> int:
        """Units of what reaches the end of the last stage."""
        return self.plan[-1].parts[-1].outputs

    @property
    def state(self) -> int:
        """Units of a recurrent network's state; that of an LSTM is twice as wide."""
        return 2 * self.width if self.cell == "lstm" else self.width

    @property
    def shared(self) -> bool:
        """Whether all layers have the same weights."""
        return self.kind == "rnn"

    @property
    def convolves(self) -> bool:
        """Whether its layers are convolutions."""
        return self.kind in IMAGES

    @property
    def normalises_inside(self) -> bool:
        """Whether the norm stands in front of each nonlinearity of a branch, and replaces the biases: ResNets."""
        return self.kind in RESNETS and self.norm != "none"

    @property
    def activates_sum(self) -> bool:
        """Whether the nonlinearity stands behind the sum of branch and shortcut: the original order of ResNets."""
        return self.kind in RESNETS and not self.pre_activated

    @property
    def pre_activated(self) -> bool:
        """Whether a ResNet's stream is normalised and activated in front of branches and head alone."""
        return self.kind in RESNETS and self.placement == "pre"

    @property
    def activates_end(self) -> bool:
        """Whether a nonlinearity stands in front of the head: where the layers begin with theirs."""
        elman = self.kind == "rnn" and self.cell == "elman"
        return self.kind in ("mlp", "cnn") or elman or self.pre_activated

    @property
    def deepnorm(self) -> tuple[float, float]:
        """α of the shortcut and β of the initial weights, (2·depth)^¼ and (8·depth)^-¼ (Wang et al. 2022, Fig. 2)."""
        return (2 * self.depth) ** 0.25, (8 * self.depth) ** -0.25

    def written(self, layer: int | Array) -> int | Array:
        """Units of the stream that have a value in front of layer ``layer``: with ``dense`` each layer adds some."""
        return self.width + layer * self.growth if self.skip == "dense" else self.stream

    @property
    def random(self) -> bool:
        """Whether a training step draws random numbers inside the network."""
        return self.dropout or self.skip in ("dropout", "stochastic_depth")


@dataclass(frozen=True)
class ForwardContext:
    """What one pass through the network is ctx: its numbers, whether it trains, what it is asked to measure."""

    hp: Mapping[str, Array]
    train: bool
    collect_activations: bool = False  # activation_rms, activation_mean
    collect_unit_stats: bool = False  # saturated, dead
    key: Array | None = None  # where the architecture is random, in training
    padding_mask: Array | None = (
        None  # [B, T], of one step in time [B]: which places hold tokens, where texts are padded
    )

    def layer_key(self, layer: int | Array, use: int) -> Array:
        """The key of one use in one layer: 0 the shortcut's, 1 dropout."""
        assert self.key is not None
        return jax.random.fold_in(jax.random.fold_in(self.key, layer), use)
