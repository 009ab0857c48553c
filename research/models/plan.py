"""Which layers each network has: the plan of stages that follows from its options. No jax here."""

from dataclasses import dataclass
from typing import Any, NamedTuple

RESNETS = ("resnet_cifar", "resnet")
IMAGES = ("cnn", *RESNETS)  # networks of convolutions
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


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


def _uniform(arch: Any, *kinds: str) -> tuple[Stage, ...]:
    width = arch.width + arch.depth * arch.growth if arch.skip == "dense" else arch.width
    return (Stage(arch.depth, tuple(Part(kind, width, width) for kind in kinds)),)


def _cifar(arch: Any) -> tuple[Stage, ...]:
    """He et al. 2016, §4.2: three times n blocks of two 3×3 convolutions, depth 6n+2."""
    n = (arch.depth - 2) // 6
    w = arch.width
    return _groups("basic", w, ((n, w, 1), (n, 2 * w, 2), (n, 4 * w, 2)))


def _imagenet(arch: Any) -> tuple[Stage, ...]:
    """He et al. 2016, Table 1."""
    kind, wider = ("basic", 1) if arch.depth < 50 else ("bottleneck", 4)
    widths = [arch.width * wider * 2**i for i in range(4)]
    return _groups(
        kind, arch.width, tuple(zip(BLOCKS[arch.depth], widths, (1, 2, 2, 2), strict=True))
    )


def _groups(kind: str, inputs: int, groups: tuple[tuple[int, int, int], ...]) -> tuple[Stage, ...]:
    """Groups of (blocks, width, stride); a first block that changes the shape is a stage of its own."""
    stages = []
    for blocks, width, stride in groups:
        first = Part(kind, inputs, width, stride)
        rest = Part(kind, width, width)
        opened = [Stage(1, (first,))] if first.reshapes else []
        stages += [*opened, Stage(blocks - len(opened), (rest,))]
        inputs = width
    return tuple(stage for stage in stages if stage.blocks)


PLANS = {
    "mlp": lambda arch: _uniform(arch, "dense"),
    "cnn": lambda arch: _uniform(arch, "conv"),
    "resnet_cifar": _cifar,
    "resnet": _imagenet,
    "transformer": lambda arch: _uniform(arch, "attention", "feedforward"),
    "rnn": lambda arch: (Stage(arch.depth, (Part("cell", arch.state, arch.state),)),),
}
