"""Small transformers in float64 for several test files."""

import dataclasses
from typing import Any

import jax

from ..builders import make_architecture, select_existing
from .networks import FLOAT64, NUMBERS, add_noise, initialize, make_numbers

TOKENS = 7
LENGTH = 5
WIDTH = 8
HEADS = 2
USUAL: dict[str, Any] = {
    "kind": "transformer",
    "depth": 2,
    "width": WIDTH,
    "heads": HEADS,
    "expansion": 2,
    "skip": "identity",
    **FLOAT64,
}
TEXT: dict[str, Any] = {
    "shape": (LENGTH,),
    "vocabulary": TOKENS,
    "classes": TOKENS,
    "language": True,
}
VECTORS: dict[str, Any] = {"shape": (LENGTH, 3), "classes": 4}


def make_transformer(**changes):
    """A transformer with noise added to its parameters."""
    arch = make_architecture(**(USUAL | changes))
    hp = make_numbers(arch, select_existing(arch, NUMBERS))
    with jax.disable_jit():
        network = initialize(arch, hp)
    return dataclasses.replace(network, params=add_noise(network.params, 0.1))


def head_units(head):
    """The units of a head, as an index."""
    size = WIDTH // HEADS
    return slice(head * size, (head + 1) * size)
