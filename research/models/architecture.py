"""The static description of a network: options, data shapes, and derived sizes."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from research.config import options
from research.config.options import (
    CONVOLUTIONAL,
    RESNETS,
    WIDTH_SCALED,
    ActivationKind,
    BlockScale,
    CellKind,
    DenseSkip,
    Level,
    ModelKind,
    NormKind,
    Parametrization,
    Placement,
    SkipKind,
    StreamSkip,
)
from research.models.hparams import HParams
from research.models.plan import PLANS, Stage

RANDOM_SKIPS = (SkipKind.dropout, SkipKind.stochastic_depth)
BEFORE_BRANCH = (Placement.pre, Placement.peri)


@dataclass(frozen=True)
class LayerFormat:
    """The number format of a layer's arithmetic.

    Attributes:
        dtype: its name in NumPy and ml_dtypes.
        rounding: as ``Architecture.rounding``.
    """

    dtype: str
    rounding: str = ""


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes and the operations of a network; hashable.

    The options are those of the configuration with their traced numbers at the defaults, so that
    two runs which differ only in traced numbers have the same architecture.

    Attributes:
        shape: shape of an example, without the batch.
        classes: number of outputs.
        dtype: number format of the arithmetic.
        param_dtype: number format of the parameters.
        vocabulary: number of tokens; 0 where examples are numbers.
        language: whether every position has a target and must not see later positions.
        padded: whether token 0 is padding, and outputs must not depend on it.
        one_hot: whether tokens are read as unit vectors, without an embedding table.
        rounding: a narrower format that the inputs of layers, and their gradients, are rounded
            through; none where it is empty.
        tensor_scale: whether each array is shifted to the top of that format's range first.
        block_scale: the blocks that share a scale in the 4-bit format; None for other formats.
        rounds_weights: whether weights are rounded in such blocks too.
        rounds_stochastically: whether gradients are rounded stochastically in such blocks.
        family: where depth, shortcut and activation are hyperparameters (``HParams.variant``), the
            nonlinearities to choose from. ``model.depth`` is then the greatest depth, for which the
            parameters have room. Empty for a network that is no member of a family.
        layer_formats: the formats that single layers have instead of ``dtype`` and ``rounding``;
            ``HParams.layer_formats`` says which layers. Empty where all layers have the same.
    """

    shape: tuple[int, ...]
    classes: int
    model: options.Model
    skip: options.Skip
    norm: options.Norm
    activation: options.Activation
    init: options.Init
    dtype: str
    param_dtype: str
    vocabulary: int = 0
    language: bool = False
    padded: bool = False
    one_hot: bool = False
    rounding: str = ""
    tensor_scale: bool = False
    block_scale: BlockScale | None = None
    rounds_weights: bool = False
    rounds_stochastically: bool = False
    family: tuple[ActivationKind, ...] = ()
    layer_formats: tuple[LayerFormat, ...] = ()

    def in_format(self, layer_format: LayerFormat) -> "Architecture":
        """The architecture with one format for all layers."""
        return dataclasses.replace(
            self,
            dtype=layer_format.dtype,
            rounding=layer_format.rounding,
            block_scale=None,
            rounds_weights=False,
            rounds_stochastically=False,
            layer_formats=(),
        )

    def in_one_format(self, dtype: str) -> "Architecture":
        """The architecture with exact arithmetic in ``dtype`` in all layers."""
        return self.in_format(LayerFormat(dtype))

    @property
    def signal_dtype(self) -> jnp.dtype:
        """The format of the signal between two layers: that of the widest layer."""
        widest = jnp.dtype(self.dtype)
        for layer_format in self.layer_formats:
            widest = jnp.promote_types(widest, layer_format.dtype)
        return widest

    def linear_kwargs(
        self,
        hp: HParams,
        rngs: nnx.Rngs,
        **overrides: Any,
    ) -> dict[str, Any]:
        """Keyword arguments for ``make_linear`` and ``Conv``.

        Args:
            hp: the hyperparameters.
            rngs: random keys.
            **overrides: arguments that replace some of them.
        """
        defaults = {"init": hp.init, "bias": self.model.bias, "rngs": rngs}
        return defaults | self.formats | overrides

    @property
    def formats(self) -> dict[str, jnp.dtype]:
        """The number formats of the arithmetic and the parameters, as layers take them."""
        return {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}

    @property
    def inputs(self) -> int:
        """The number of input values or tokens of an example."""
        return math.prod(self.shape)

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages, in forward order."""
        return PLANS[self.model.kind](self)

    @property
    def layers(self) -> int:
        """N: the layers of all stages."""
        return sum(stage.blocks * len(stage.parts) for stage in self.plan)

    @property
    def residual_width(self) -> int:
        """Units of the last layer's output."""
        return self.plan[-1].parts[-1].outputs

    @property
    def state_width(self) -> int:
        """Units of a recurrent network's state; an LSTM's holds cell and hidden state."""
        is_lstm = getattr(self.model, "cell", None) is CellKind.lstm
        return 2 * self.model.width if is_lstm else self.model.width

    @property
    def shares_weights(self) -> bool:
        """Whether all layers have the same weights."""
        return self.model.kind is ModelKind.rnn

    @property
    def convolves(self) -> bool:
        """Whether its layers are convolutions."""
        return self.model.kind in CONVOLUTIONAL

    @property
    def branch_weights(self) -> int:
        """Weight matrices in the branch of a fully connected layer."""
        return getattr(self.model, "branch_weights", 1)

    @property
    def parametrization(self) -> Parametrization:
        """How multipliers and learning rates change with width and depth."""
        return getattr(self.model, "parametrization", Parametrization.standard)

    @property
    def width_ratio(self) -> float:
        """The width over the base width, where the parametrization depends on it: else 1."""
        if self.parametrization not in WIDTH_SCALED:
            return 1.0
        assert isinstance(self.model, options.FeedForward)
        return self.model.width / self.model.base_width

    @property
    def branch_factor(self) -> float:
        """The factor of the parametrization on each branch."""
        return getattr(self.model, "branch_factor", 1.0)

    @property
    def hidden_rate(self) -> float:
        """The factor on Adam's learning rate of weights between hidden units.

        1/m_n for the width ratio m_n, and m_L^(α − 1) more for the depth ratio m_L, where branches
        are multiplied by m_L^-α (Dey et al. 2025, Table 1).
        """
        rate = 1 / self.width_ratio
        if self.parametrization is Parametrization.depth_mup:
            return rate * self.branch_factor
        return rate

    @property
    def attends(self) -> bool:
        """Whether its layers contain attention."""
        return self.model.kind is ModelKind.transformer

    @property
    def is_resnet(self) -> bool:
        """Whether it is a ResNet, in which ``norm.placement`` is the order of operations."""
        return self.model.kind in RESNETS

    @property
    def normalises_inside(self) -> bool:
        """Whether a norm precedes each nonlinearity of a branch and replaces biases: ResNets."""
        return self.is_resnet and self.norm.kind is not NormKind.none

    @property
    def pre_activated(self) -> bool:
        """Whether a ResNet normalises and activates only the inputs of branches and head."""
        return self.is_resnet and self.norm.placement is Placement.pre

    @property
    def activates_sum(self) -> bool:
        """Whether the nonlinearity follows the sum of branch and shortcut: the original ResNet."""
        return self.is_resnet and not self.pre_activated

    @property
    def activates_end(self) -> bool:
        """Whether a nonlinearity precedes the head: where it is the first step of each branch."""
        is_elman = getattr(self.model, "cell", None) is CellKind.elman
        plain = self.model.kind in (ModelKind.mlp, ModelKind.cnn)
        return plain or is_elman or self.pre_activated

    @property
    def head_norm(self) -> options.Norm:
        """The norm before the head: that of the blocks if it precedes their branches, else none."""
        return self.norm if self.norm.placement in BEFORE_BRANCH else options.Norm()

    @property
    def scales_norm(self) -> bool:
        """Whether the output of the norm of block l is multiplied by 1/√l."""
        return options.has_scaled_norm(self.norm)

    @property
    def deepnorm_alpha(self) -> float:
        """DeepNorm's factor on the shortcut, α = (2·depth)^¼ (Wang et al. 2022, Fig. 2)."""
        return (2 * self.model.depth) ** 0.25

    @property
    def deepnorm_beta(self) -> float:
        """DeepNorm's factor on initial weights, β = (8·depth)^-¼ (Wang et al. 2022, Fig. 2)."""
        return (8 * self.model.depth) ** -0.25

    @property
    def growth(self) -> int:
        """Units that each layer adds to the residual stream: 0 except for ``skip=dense``."""
        return self.skip.growth if isinstance(self.skip, DenseSkip) else 0

    @property
    def has_streams(self) -> bool:
        """Whether a signal holds several residual streams side by side."""
        return isinstance(self.skip, StreamSkip)

    @property
    def num_streams(self) -> int:
        """Residual streams, each ``residual_width`` wide: 1 except for ``hyper`` and ``mhc``."""
        return self.skip.streams if isinstance(self.skip, StreamSkip) else 1

    def num_active_units(self, layer: int | Array) -> int | Array:
        """Units of the input of layer ``layer`` that hold a value.

        With ``skip=dense`` each layer adds some.
        """
        if self.growth:
            return self.model.width + layer * self.growth
        return self.residual_width

    @property
    def has_dropout(self) -> bool:
        """Whether branches have dropout."""
        return getattr(self.model, "dropout", 0) > 0

    @property
    def is_random(self) -> bool:
        """Whether a training step draws random numbers inside the network."""
        has_random_mask = self.has_dropout or self.skip.kind in RANDOM_SKIPS
        return has_random_mask or self.rounds_stochastically


@dataclass(frozen=True)
class ForwardContext:
    """What one pass through the network needs to know.

    Attributes:
        hp: the hyperparameters.
        train: whether the network trains.
        level: which gauges are measured.
        key: random key, needed in training where ``Architecture.is_random``.
        padding_mask: which positions hold tokens, [B, T], of one time step [B]; None without
            padding.
        counts_exponents: whether the exponents of what each layer reads are counted.
    """

    hp: HParams
    train: bool
    level: Level = Level.off
    key: Array | None = None
    padding_mask: Array | None = None
    counts_exponents: bool = False

    def layer_key(self, layer: int | Array, use: int) -> Array:
        """The random key of one use in one layer: 0 for the shortcut, 1 for dropout, 2 for rounding
        the gradient.
        """
        assert self.key is not None
        return jax.random.fold_in(jax.random.fold_in(self.key, layer), use)
