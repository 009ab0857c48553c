"""The number formats of each ``precision`` option."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Number formats by their names in NumPy and ml_dtypes.

    Attributes:
        params: format of the parameters.
        compute: format of activations and gradients.
        rounding: a narrower format that the inputs of layers, and their gradients, are rounded
            through; none where it is empty.
    """

    params: str
    compute: str
    rounding: str = ""

    @property
    def accumulation(self) -> str:
        """The format of losses, gauges, and the optimizer's state and arithmetic."""
        return "float64" if self.compute == "float64" else "float32"

    @property
    def narrowest(self) -> str:
        """The format with the smallest range that gradients pass through."""
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
    "float4_e2m1": Policy("float32", "float32", "float4_e2m1fn"),
}
