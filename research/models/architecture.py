"""What a network is made of: its shapes and options, and the plan of stages that follows from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

RESNETS = ("resnet_cifar", "resnet")
SEQUENCES = ("transformer", "rnn")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class Part:
    """One layer of a block: what its branch is, and the units (channels) it takes and gives."""

    kind: str
    inputs: int
    outputs: int
    stride: int = 1

    @property
    def reshapes(self) -> bool:
        """Whether the output has another shape than the input."""
        return self.inputs != self.outputs or self.stride != 1


class Stage(NamedTuple):
    """So many identical blocks, each of some layers one behind the other; run as one scan."""

    blocks: int
    parts: tuple[Part, ...]


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
    one_hot: bool = False  # tokens are read as unit vectors by the first weights, without vectors of their own
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
        return _PLANS[self.kind](self)

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
    def activates_sum(self) -> bool:
        """Whether the nonlinearity stands behind the sum of branch and shortcut: the original order of ResNets."""
        return self.kind in RESNETS and not self.pre_activated

    @property
    def pre_activated(self) -> bool:
        """Whether a ResNet's stream is normalised and activated in front of branches and head alone."""
        return self.kind in RESNETS and self.placement == "pre"

    @property
    def random(self) -> bool:
        """Whether a training step draws random numbers inside the network."""
        return self.dropout or self.skip in ("dropout", "stochastic_depth")


@dataclass(frozen=True)
class Pass:
    """What one pass through the network is told: its numbers, whether it trains, what it is asked to measure."""

    hp: Mapping[str, Array]
    train: bool
    forward: bool = False  # activation_rms, activation_mean
    units: bool = False  # saturated, dead
    key: Array | None = None  # where the architecture is random, in training
    real: Array | None = None  # [B, T], of one step in time [B]: which places hold tokens, where texts are padded


def _uniform(arch: Architecture, *kinds: str) -> tuple[Stage, ...]:
    width = arch.width + arch.depth * arch.growth if arch.skip == "dense" else arch.width
    return (Stage(arch.depth, tuple(Part(kind, width, width) for kind in kinds)),)


def _cifar(arch: Architecture) -> tuple[Stage, ...]:
    """He et al. 2016, §4.2: three times n blocks of two 3×3 convolutions, depth 6n+2."""
    n, w = (arch.depth - 2) // 6, arch.width
    return _groups("basic", w, ((n, w, 1), (n, 2 * w, 2), (n, 4 * w, 2)))


def _imagenet(arch: Architecture) -> tuple[Stage, ...]:
    """He et al. 2016, Table 1."""
    kind, wider = ("basic", 1) if arch.depth < 50 else ("bottleneck", 4)
    widths = [arch.width * wider * 2**i for i in range(4)]
    return _groups(kind, arch.width, tuple(zip(BLOCKS[arch.depth], widths, (1, 2, 2, 2), strict=True)))


def _groups(kind: str, inputs: int, groups: tuple[tuple[int, int, int], ...]) -> tuple[Stage, ...]:
    """Groups of (blocks, width, stride); a first block that changes the shape is a stage of its own."""
    stages = []
    for blocks, width, stride in groups:
        first, rest = Part(kind, inputs, width, stride), Part(kind, width, width)
        opened = [Stage(1, (first,))] if first.reshapes else []
        stages += [*opened, Stage(blocks - len(opened), (rest,))]
        inputs = width
    return tuple(stage for stage in stages if stage.blocks)


_PLANS = {
    "mlp": lambda arch: _uniform(arch, "dense"),
    "cnn": lambda arch: _uniform(arch, "conv"),
    "resnet_cifar": _cifar,
    "resnet": _imagenet,
    "transformer": lambda arch: _uniform(arch, "attention", "feedforward"),
    "rnn": lambda arch: (Stage(arch.depth, (Part("cell", arch.state, arch.state),)),),
}
