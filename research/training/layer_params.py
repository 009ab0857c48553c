"""Where in the tree of parameters each layer lies."""

from typing import Any

import jax
from jaxtyping import Array

from research.models.architecture import Architecture


def stages_of(arch: Architecture, params: Any) -> list[list[Any]]:
    """The parameters as ``gauges.layers`` takes them; shared ones as those of a single layer."""
    if arch.shared:
        return [[jax.tree.map(lambda leaf: leaf[None], params["cell"])]]
    stacks = iter(params["stages"].values())
    return [[next(stacks) for _ in stage.parts] for stage in arch.plan]


def kernels_of(arch: Architecture, params: Any) -> list[list[list[Array]]]:
    """``stages_of`` without biases and the scales of norms: of each layer a list of its weights."""

    def weights(stack):
        return [leaf for path, leaf in jax.tree.leaves_with_path(stack) if is_kernel(path)]

    return [[weights(stack) for stack in stage] for stage in stages_of(arch, params)]


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the leaf at ``path`` is a matrix or a convolution's kernel."""
    return any(getattr(key, "key", None) == "kernel" for key in path)
