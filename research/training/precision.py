"""Number formats by policy name, and the scope that float64 needs."""

import contextlib
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Policy:
    """``params``: the weights' format. ``compute``: that of activations and gradients.

    ``rounding``: the narrower format that what each layer reads, and the gradient that leaves it
    there, are rounded through; none where it is empty.
    """

    params: str
    compute: str
    rounding: str = ""

    @property
    def accumulation(self) -> str:
        """The format of the optimizer's state and arithmetic, of losses, and of gauges."""
        return "float64" if self.compute == "float64" else "float32"

    @property
    def narrowest(self) -> str:
        """The format in which a gradient is lost first."""
        return self.rounding or self.compute


POLICIES = {
    "float32": Policy("float32", "float32"),
    "float64": Policy("float64", "float64"),
    "bfloat16": Policy("bfloat16", "bfloat16"),
    "mixed_bfloat16": Policy("float32", "bfloat16"),
    "float16": Policy("float16", "float16"),
    "mixed_float16": Policy("float32", "float16"),
    "float8_e4m3": Policy("float32", "float32", "float8_e4m3fn"),
    "float8_e5m2": Policy("float32", "float32", "float8_e5m2"),
}


def scope(kind: str) -> contextlib.AbstractContextManager:
    """The context in which everything of a run of this precision happens; it changes no global
    setting.
    """
    return jax.enable_x64(kind == "float64")
