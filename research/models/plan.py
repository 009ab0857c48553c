"""Which layers each network has: the stages that follow from its options. No jax here."""

from dataclasses import dataclass
from typing import Any

from research.config.options import ModelKind

BLOCKS_PER_GROUP = {  # of ``resnet``, by depth
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_EXPANSION = 4


@dataclass(frozen=True)
class Part:
    """One layer of a block.

    Attributes:
        kind: what its branch is: dense, conv, basic, bottleneck, attention, feedforward or cell.
        inputs: units or channels of its input.
        outputs: units or channels of its output.
        stride: stride of its convolution.
    """

    kind: str
    inputs: int
    outputs: int
    stride: int = 1

    @property
    def reshapes(self) -> bool:
        """Whether the output has another shape than the input."""
        return self.inputs != self.outputs or self.stride != 1


@dataclass(frozen=True)
class Stage:
    """Identical blocks, each of one or several layers in a row; run as one scan."""

    blocks: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Group:
    """Blocks of a ResNet that have the same width; the first one may have a stride."""

    blocks: int
    width: int
    stride: int


def _uniform(arch: Any, *kinds: str) -> tuple[Stage, ...]:
    """One stage whose layers all have the same width."""
    width = arch.model.width + arch.model.depth * arch.growth
    parts = tuple(Part(kind, width, width) for kind in kinds)
    return (Stage(arch.model.depth, parts),)


def _mlp(arch: Any) -> tuple[Stage, ...]:
    return _uniform(arch, "dense")


def _cnn(arch: Any) -> tuple[Stage, ...]:
    return _uniform(arch, "conv")


def _transformer(arch: Any) -> tuple[Stage, ...]:
    if not arch.model.expansion:
        return _uniform(arch, "attention")
    return _uniform(arch, "attention", "feedforward")


def _recurrent(arch: Any) -> tuple[Stage, ...]:
    cell = Part("cell", arch.state_width, arch.state_width)
    return (Stage(arch.model.depth, (cell,)),)


def _resnet_cifar(arch: Any) -> tuple[Stage, ...]:
    """He et al. 2016, §4.2: three times n blocks of two 3×3 convolutions, depth 6n+2."""
    n = (arch.model.depth - 2) // 6
    width = arch.model.width
    groups = [
        Group(n, width, stride=1),
        Group(n, 2 * width, stride=2),
        Group(n, 4 * width, stride=2),
    ]
    return _stages("basic", width, groups)


def _resnet(arch: Any) -> tuple[Stage, ...]:
    """He et al. 2016, Table 1."""
    depth = arch.model.depth
    kind = "basic" if depth < 50 else "bottleneck"
    expansion = 1 if kind == "basic" else BOTTLENECK_EXPANSION
    groups = []
    for number, blocks in enumerate(BLOCKS_PER_GROUP[depth]):
        width = arch.model.width * expansion * 2**number
        groups.append(Group(blocks, width, 1 if number == 0 else 2))
    return _stages(kind, arch.model.width, groups)


def _stages(
    kind: str,
    inputs: int,
    groups: list[Group],
) -> tuple[Stage, ...]:
    """The stages of a ResNet: a first block that changes the shape is a stage by itself."""
    stages = []
    for group in groups:
        first = Part(kind, inputs, group.width, group.stride)
        others = Part(kind, group.width, group.width)
        remaining = group.blocks
        if first.reshapes:
            stages.append(Stage(1, (first,)))
            remaining -= 1
        if remaining:
            stages.append(Stage(remaining, (others,)))
        inputs = group.width
    return tuple(stages)


PLANS = {
    ModelKind.mlp: _mlp,
    ModelKind.cnn: _cnn,
    ModelKind.resnet_cifar: _resnet_cifar,
    ModelKind.resnet: _resnet,
    ModelKind.transformer: _transformer,
    ModelKind.rnn: _recurrent,
}
