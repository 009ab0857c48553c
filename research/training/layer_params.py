"""Where each layer lies in the tree of parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from research.models.architecture import Architecture

STAGES = "stages"  # where the parameters of layers are, stacked
# The names of parameters that have inputs and outputs, and of embeddings.
MATRIX_NAMES = ("kernel", "recurrent", "input", "vectors", "positions")


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


def without_layer(
    arch: Architecture,
    tree: Any,
    layer: int,
) -> Any:
    """A tree like the parameters with zeros in place of one layer of a network of several.

    Args:
        arch: the architecture, whose layers have weights of their own.
        tree: numbers for each parameter, such as updates.
        layer: the number of the layer, from 0.
    """
    stack, row = _find_layer(arch, layer)

    def clear(path: tuple, leaf: Array) -> Array:
        is_in_stack = path_names(path)[:2] == [STAGES, stack]
        return leaf.at[row].set(0) if is_in_stack else leaf

    return jax.tree_util.tree_map_with_path(clear, tree)


def _find_layer(arch: Architecture, layer: int) -> tuple[int, int]:
    """The stack of parameters that holds a layer, and its row there."""
    first_stack = 0
    for stage in arch.plan:
        parts = len(stage.parts)
        if layer < stage.blocks * parts:
            return first_stack + layer % parts, layer // parts
        layer -= stage.blocks * parts
        first_stack += parts
    raise ValueError(f"layer must be below the {arch.layers} layers of the network")


def count_params(
    arch: Architecture,
    layers: int,
    params: Any,
) -> int:
    """How many parameters a network has.

    Args:
        arch: its architecture, or that of its family.
        layers: its layers N.
        params: the parameters of several networks, with a leading axis of networks.
    """
    count = 0
    for path, leaf in jax.tree.leaves_with_path(params):
        size = leaf.size // leaf.shape[0]
        if arch.family and STAGES in path_names(path):
            size = size // arch.layers * layers
        count += size
    return count


def trim_layers(
    arrays: Mapping[str, np.ndarray],
    arch: Architecture,
    layers: int,
) -> dict[str, np.ndarray]:
    """The arrays of a network's own layers, where those of its family have room for more.

    Args:
        arrays: the state of one run by path.
        arch: the architecture.
        layers: the layers N of the run's network.
    """
    trimmed = {}
    for path, array in arrays.items():
        trimmed[path] = array[:layers] if has_layer_axis(arch, path) else array
    return trimmed


def has_layer_axis(arch: Architecture, path: str) -> bool:
    """Whether an array of a state has room for the layers of the deepest network of a family.

    Args:
        arch: the architecture.
        path: where the array is in the state, with dots.
    """
    return bool(arch.family) and STAGES in path.split(".")


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
