"""The settings of a run of the PyTorch loop. No JAX: a program of PyTorch alone reads them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class LoopRun:
    """A network and how it is trained.

    Attributes:
        activation: ``relu``, ``tanh`` or ``sigmoid``.
        skip: ``none`` or ``inv_sqrt_depth``.
        depth: The number of layers between embedding and head.
        width: The units of a layer.
        seed: Of the initial weights and of the order of the examples.
        steps: The number of updates.
        batch_size: The examples in each update.
        learning_rate: That of SGD.
        momentum: Its decay.
    """

    activation: str
    skip: str
    depth: int
    width: int
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float

    @property
    def name(self) -> str:
        """The name of its file of results."""
        return f"{self.activation}-{self.skip}-depth{self.depth}-seed{self.seed}"


def write_runs(runs: Sequence[LoopRun], file: Path) -> None:
    """Writes the settings of the runs as JSON."""
    settings = [dataclasses.asdict(run) for run in runs]
    file.write_text(json.dumps(settings), encoding="utf-8")


def read_runs(file: Path) -> list[LoopRun]:
    """The runs in a file that ``write_runs`` wrote."""
    return [LoopRun(**settings) for settings in json.loads(file.read_text(encoding="utf-8"))]
