"""The trained network of a run, as a Flax module with its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from research.data.standardize import Standardization
from research.models.architecture import ForwardContext
from research.models.hparams import HParams
from research.models.stack import Stack
from research.runner.kept import load_kept_run, read_config
from research.training.objective import graph_of
from research.training.precision import precision_context


@dataclass(frozen=True)
class TrainedModel:
    """The network of a run after its last step.

    Attributes:
        module: the Flax NNX module with its weights: ``nnx.state(model.module)`` is their tree.
        hp: the hyperparameters, which the module reads in each pass.
        offset: what is subtracted from the inputs, one number or one for each [1, inputs].
        scale: what they are then multiplied by, of the same shape.
        precision: the number format of the run.
    """

    module: Stack
    hp: HParams
    offset: np.ndarray
    scale: np.ndarray
    precision: str

    def __call__(self, x: Any) -> Array:
        """The outputs of the network in evaluation.

        Args:
            x: examples as you gave them or as the dataset holds them, before standardisation:
                numbers [B, inputs], or with more axes, or tokens [B, T].

        Returns:
            Logits [B, C]; of a language model [B, T, C]; of a regression its outputs.

        Raises:
            ValueError: the examples have another size than those of the run.
        """
        arch = self.module.arch
        rows = np.asarray(x)
        if not arch.vocabulary:
            rows = rows.reshape(len(rows), -1)
            if rows.shape[1] != arch.inputs:
                raise ValueError(f"an example must have {arch.inputs} numbers, got {rows.shape[1]}")
            standardization = Standardization(self.offset, self.scale, is_constant=False)
            rows = standardization.apply(rows)
        dtype = jnp.int32 if arch.vocabulary else arch.dtype
        with precision_context(self.precision):
            inputs = jnp.asarray(rows, dtype)
            outputs, _ = self.module(inputs, {}, ForwardContext(self.hp, train=False))
        return outputs


def load_model(directory: Path) -> TrainedModel:
    """The trained network of a run, from the checkpoint that it kept.

    Args:
        directory: the run's directory.

    Raises:
        ValueError: the run kept no checkpoint, or it cannot be read.
    """
    precision = read_config(directory).precision.kind.name
    with precision_context(precision):
        kept = load_kept_run(directory)
        graph = graph_of(kept.setup.program_config.architecture, kept.hp)
        module = nnx.merge(graph, kept.state.params, kept.state.model_state)
    standardization = kept.setup.dataset.standardization
    return TrainedModel(
        module=module,
        hp=kept.hp,
        offset=np.asarray(standardization.offset),
        scale=np.asarray(standardization.scale),
        precision=precision,
    )
