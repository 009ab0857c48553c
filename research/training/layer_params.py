"""Where each layer lies in the tree of parameters."""

from typing import Any

import jax
from jaxtyping import Array

from research.models.architecture import Architecture


def stages_of(arch: Architecture, params: Any) -> list[list[Any]]:
    """The parameters as ``gauges.layers`` takes them; shared ones as those of a single layer."""
    if arch.shares_weights:
        single_layer = jax.tree.map(lambda leaf: leaf[None], params["cell"])
        return [[single_layer]]
    stacks = list(params["stages"].values())
    stages = []
    for stage in arch.plan:
        parts = len(stage.parts)
        stages.append(stacks[:parts])
        stacks = stacks[parts:]
    return stages


def kernels_of(arch: Architecture, params: Any) -> list[list[list[Array]]]:
    """``stages_of`` without biases and the scales of norms: of each layer a list of its weights."""
    stages = []
    for stage in stages_of(arch, params):
        stages.append([_kernels(stack) for stack in stage])
    return stages


def _kernels(stack: Any) -> list[Array]:
    kernels = []
    for path, leaf in jax.tree.leaves_with_path(stack):
        if is_kernel(path):
            kernels.append(leaf)
    return kernels


def is_kernel(path: tuple) -> bool:
    """Whether the leaf at ``path`` is a matrix or a convolution's kernel."""
    return "kernel" in path_names(path)


def path_names(path: tuple) -> list[str | int]:
    """The keys of dictionaries on the path of a leaf, as ``jax.tree_util`` gives paths."""
    return [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
