"""The options of every configuration group: one dataclass for each set of settings that options
have in common.

A setting is one field of one dataclass and exists only for the options that it acts on. Each field
declares its default, meaning and range, and whether it is *traced*: a traced number does not change
shapes, so it enters the compiled program as an argument, and runs that differ only in traced
numbers share one program. Everything else selects the program.
"""

import enum
from dataclasses import dataclass

from research.config.fields import setting

MAX_STEPS = 2**31  # steps are 32-bit numbers in the compiled program
ModelKind = enum.Enum("ModelKind", ["mlp", "cnn", "resnet_cifar", "resnet", "transformer", "rnn"])
CellKind = enum.Enum("CellKind", ["elman", "gru", "lstm"])
Positions = enum.Enum("Positions", ["learned", "rotary", "none"])
Transition = enum.Enum("Transition", ["pad", "projection"])
Padding = enum.Enum("Padding", ["zero", "circular"])
Parametrization = enum.Enum("Parametrization", ["standard", "mup", "depth_mup", "complete_p"])
WIDTH_SCALED = (Parametrization.mup, Parametrization.depth_mup, Parametrization.complete_p)
DEPTH_EXPONENTS = {Parametrization.depth_mup: 0.5, Parametrization.complete_p: 1.0}
DEPTH_SCALED = tuple(DEPTH_EXPONENTS)
SkipKind = enum.Enum(
    "SkipKind",
    "none identity scaled inv_sqrt_depth rezero skipinit fixup highway gated projection dropout "
    "deepnorm stochastic_depth dense hyper mhc",
)
NormKind = enum.Enum("NormKind", ["none", "layer", "batch", "rms", "group", "dyt"])
Placement = enum.Enum("Placement", ["pre", "post", "branch", "peri"])
NormScale = enum.Enum("NormScale", ["one", "inv_sqrt_layer"])
ActivationKind = enum.Enum("ActivationKind", "relu tanh sigmoid gelu silu elu selu softsign linear")
InitKind = enum.Enum(
    "InitKind",
    "he glorot glorot_uniform lecun old_uniform gaussian orthogonal delta_orthogonal schur zeros",
)
OptimizerKind = enum.Enum(
    "OptimizerKind", "gd sgd momentum adam adamw nesterov rmsprop adagrad lion muon"
)
DecayMask = enum.Enum("DecayMask", ["all", "matrices"])


class Schedule(enum.Enum):
    """Schedules of the learning rate. Optax's names for them are valid too."""

    constant = 1
    warmup = 2
    warmup_cosine = 3
    step = 4
    linear = 5
    cosine = 6
    exponential = 7
    polynomial = 8
    warmup_exponential = 9

    constant_schedule = 1
    warmup_constant = 2
    warmup_constant_schedule = 2
    warmup_cosine_decay = 3
    warmup_cosine_decay_schedule = 3
    piecewise_constant = 4
    piecewise_constant_schedule = 4
    linear_schedule = 5
    cosine_decay = 6
    cosine_decay_schedule = 6
    exponential_decay = 7
    polynomial_schedule = 8
    warmup_exponential_decay = 9
    warmup_exponential_decay_schedule = 9


WARMUPS = (Schedule.warmup, Schedule.warmup_cosine, Schedule.warmup_exponential)
Clip = enum.Enum("Clip", ["none", "global_norm", "value", "adaptive"])
PrecisionKind = enum.Enum(
    "PrecisionKind",
    "float32 float64 bfloat16 mixed_bfloat16 float16 mixed_float16 float8_e4m3 float8_e5m2 "
    "float4_e2m1",
)
BlockScale = enum.Enum("BlockScale", ["mx", "nv"])
LossScaling = enum.Enum("LossScaling", ["none", "static", "dynamic"])
LossKind = enum.Enum("LossKind", ["cross_entropy", "mse"])
Level = enum.Enum("Level", ["off", "norms", "full"])
MeshKind = enum.Enum("MeshKind", ["auto", "single", "data_parallel", "distributed"])
MapMode = enum.Enum("MapMode", ["auto", "map", "vmap"])  # of the launchers
TrackedLayers = enum.Enum("TrackedLayers", ["none", "spread", "all"])

RESNET_DEPTHS = (18, 34, 50, 101, 152)
RESNETS = (ModelKind.resnet_cifar, ModelKind.resnet)
CONVOLUTIONAL = (ModelKind.cnn, *RESNETS)
INSPECTIONS = (
    "sharpness",
    "preconditioned_sharpness",
    "jacobian_spectrum",
    "gradient_correlation",
    "input_gradient",
    "output_change",
    "difference_errors",
    "scale_derivative",
    "scale_invariance",
    "balance",
    "parameters",
    "fitted_function",
    "gradient_variance",
    "masked_outputs",
    "probes",
    "representations",
    "feature_maps",
    "loss_surface",
    "interpolation",
    "coordinate_change",
    "hessian_spectrum",
    "tokens",
    "stream_mixing",
    "clipping",
    "quantization_noise",
)


STOP_KINDS = (
    "diverged",
    "forward_underflow",
    "underflow",
    "overflow",
    "dead",
    "vanishing",
    "exploding",
    "collapsed",
    "not_learning",
    "slow_divergence",
)


@dataclass(frozen=True)
class Train:
    """How long to train, and on how many examples at once."""

    steps: int | None = setting(
        None,
        "Number of updates; null: as many as the epochs take.",
        ge=1,
        lt=MAX_STEPS,
        traced=True,
        shared=True,
    )
    epochs: float = setting(
        30.0,
        "Passes over the training examples, unless steps is set; a pass is as many steps as there "
        "are whole batches.",
        gt=0,
    )
    batch_size: int = setting(
        128,
        "Examples in each update. Those that fill no batch at the end of an epoch are left out of "
        "it; the next epoch has another order.",
        ge=1,
    )
    eval_every: int | None = setting(None, "Steps between evaluations; null: once an epoch.", ge=1)
    input_noise: float = setting(
        0.0,
        "Standard deviation of Gaussian noise added to each number that the network reads in "
        "training, after it is standardised.",
        ge=0,
        traced=True,
        switch=True,
    )

    def num_steps(self, steps_per_epoch: int) -> int:
        """How many updates a run has, whose epochs take ``steps_per_epoch`` of them."""
        return self.steps or max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True)
class Model:
    """The network between an embedding and a head."""

    kind: ModelKind = ModelKind.mlp
    depth: int = setting(16, "Layers, counted as the network's paper counts them.", ge=1)
    width: int = setting(64, "Units or channels of a layer; of ResNets, of the first stage.", ge=1)
    bias: bool = setting(True, "Whether weights have biases.")
    recompute: bool = setting(
        False, "Compute a block's activations again in the backward pass instead of storing them."
    )


@dataclass(frozen=True)
class FeedForward(Model):
    """All models but ``rnn``: layers with weights of their own."""

    parametrization: Parametrization = setting(
        Parametrization.standard,
        "How multipliers and Adam's learning rates change with width and depth: not at all, with "
        "width (mup, Yang et al. 2021), or also with depth, as 1/√L (depth_mup, Yang et al. 2023) "
        "or 1/L (complete_p, Dey et al. 2025).",
    )
    base_width: int = setting(
        64,
        "The width at which it changes nothing.",
        ge=1,
        only_with={"parametrization": WIDTH_SCALED},
    )
    base_depth: int = setting(
        4,
        "The depth at which it changes nothing.",
        ge=1,
        only_with={"parametrization": DEPTH_SCALED},
    )
    dropout: float = setting(
        0.0,
        "Dropout rate before the last weights of each branch; what is kept in training is divided "
        "by 1 - dropout.",
        ge=0,
        lt=1,
        traced=True,
        switch=True,
    )

    @property
    def branch_factor(self) -> float:
        """The factor on each branch: (depth over base depth) to the power −½ or −1, else 1."""
        if self.parametrization not in DEPTH_SCALED:
            return 1.0
        exponent = DEPTH_EXPONENTS[self.parametrization]
        return (self.depth / self.base_depth) ** -exponent


@dataclass(frozen=True)
class FullyConnected(FeedForward):
    """``mlp`` and ``linear``: fully connected layers of one width."""

    branch_weights: int = setting(
        1,
        "Weight matrices of a layer, each after a nonlinearity: 1, or 2 as in residual networks.",
        ge=1,
        le=2,
    )


@dataclass(frozen=True)
class Convolutional(FeedForward):
    """``cnn``: 3×3 convolutions of one width."""

    kind: ModelKind = ModelKind.cnn
    padding: Padding = setting(Padding.zero, "What lies outside an image.")


@dataclass(frozen=True)
class ResNet(Convolutional):
    """``resnet_cifar`` and ``resnet``: stages of residual blocks."""

    kind: ModelKind = ModelKind.resnet_cifar
    transition: Transition = setting(
        Transition.pad, "The shortcut where the shape changes: zero padding or a 1×1 projection."
    )


@dataclass(frozen=True)
class Transformer(FeedForward):
    """``transformer``: an encoder that classifies images or texts, or a causal language model."""

    kind: ModelKind = ModelKind.transformer
    heads: int = setting(4, "Attention heads; a divisor of the width.", ge=1)
    expansion: int = setting(
        4,
        "Hidden units of the feed-forward layer, in widths; 0: blocks of attention alone.",
        ge=0,
    )
    positions: Positions = setting(Positions.learned, "How positions are encoded.")
    tied: bool = setting(
        False, "Whether the head of a language model uses the embedding's weights."
    )


@dataclass(frozen=True)
class Recurrent(Model):
    """``rnn``: the depth is the number of time steps, and all of them share one layer."""

    kind: ModelKind = ModelKind.rnn
    depth: int | None = setting(
        None,
        "Time steps; null: as many as a text has tokens, of other data up to 16 equal parts.",
        ge=1,
    )
    cell: CellKind = setting(CellKind.elman, "The recurrent cell.")


@dataclass(frozen=True)
class Skip:
    """The shortcut around each block: the block's output is skip(h, F(h))."""

    kind: SkipKind = SkipKind.none


@dataclass(frozen=True)
class ScaledSkip(Skip):
    """``scaled``: shortcut_scale·h + branch_scale·F(h)."""

    kind: SkipKind = SkipKind.scaled
    branch_scale: float = setting(1.0, "Factor on the branch.", traced=True)
    shortcut_scale: float = setting(1.0, "Factor on the shortcut.", traced=True)


@dataclass(frozen=True)
class SkipInit(Skip):
    """``skipinit``: h + α·F(h) with a learned α (De & Smith 2020)."""

    kind: SkipKind = SkipKind.skipinit
    branch_scale: float = setting(0.0, "Initial value of the learned factor α.", traced=True)


@dataclass(frozen=True)
class GatedSkip(Skip):
    """``highway`` and ``gated``: a learned gate on the shortcut."""

    kind: SkipKind = SkipKind.highway
    gate_bias: float = setting(
        -2.0,
        "Initial bias of the gate; the more negative, the more the shortcut passes.",
        traced=True,
    )


@dataclass(frozen=True)
class RandomSkip(Skip):
    """``dropout`` and ``stochastic_depth``: random masks on the shortcut or the branch."""

    kind: SkipKind = SkipKind.dropout
    rate: float = setting(
        0.5,
        "Probability of dropping; of stochastic_depth, that of the last layer.",
        ge=0,
        lt=1,
        traced=True,
    )


@dataclass(frozen=True)
class DenseSkip(Skip):
    """``dense``: each layer reads the outputs of all layers before it (Huang et al. 2017)."""

    kind: SkipKind = SkipKind.dense
    growth: int = setting(12, "Units that each layer adds.", ge=1)


@dataclass(frozen=True)
class StreamSkip(Skip):
    """``hyper`` and ``mhc``: several residual streams, which every layer mixes."""

    kind: SkipKind = SkipKind.hyper
    streams: int = setting(4, "Residual streams, each as wide as the model.", ge=1, le=64)
    mixing_noise: float = setting(
        0.0,
        "Standard deviation of Gaussian noise on the initial mixing matrix of the streams; of mhc, "
        "on its logarithm.",
        ge=0,
        traced=True,
    )


@dataclass(frozen=True)
class Norm:
    """The normalisation of each block. The ε under its root is 1e-6, with batch norm 1e-5."""

    kind: NormKind = NormKind.none
    placement: Placement = setting(
        Placement.pre,
        "Before the branch, after the sum, at the end of the branch, or (peri) before the branch "
        "and at its end; of ResNets, their order.",
    )


@dataclass(frozen=True)
class AffineNorm(Norm):
    """Every norm but ``none``."""

    kind: NormKind = NormKind.layer
    affine: bool = setting(
        True,
        "Whether the norm learns a scale and a shift for each unit; rms has no shift.",
    )
    scale: NormScale = setting(
        NormScale.one,
        "Factor on the output of the norm of block l = 1, 2, …: 1, or 1/√l (Sun et al. 2025).",
        only_with={"placement": (Placement.pre,)},
    )


def has_scaled_norm(norm: Norm) -> bool:
    """Whether the output of the norm of block l is multiplied by 1/√l."""
    return isinstance(norm, AffineNorm) and norm.scale is NormScale.inv_sqrt_layer


@dataclass(frozen=True)
class GroupNorm(AffineNorm):
    """``group``: normalisation over groups of units (Wu & He 2018)."""

    kind: NormKind = NormKind.group
    groups: int = setting(8, "Groups of units; a divisor of the width.", ge=1)


@dataclass(frozen=True)
class Activation:
    """The nonlinearity."""

    kind: ActivationKind = ActivationKind.relu


@dataclass(frozen=True)
class Init:
    """The distribution of initial weights and biases."""

    kind: InitKind = InitKind.he
    sigma_b: float = setting(0.0, "Standard deviation of initial biases.", ge=0, traced=True)
    bias_mean: float = setting(0.0, "Mean of initial biases.", traced=True)
    layer: int | None = setting(
        None, "A layer, counted from 0, whose initial weights are multiplied by layer_gain.", ge=0
    )
    layer_gain: float = setting(
        1.0, "Factor on the initial weights of that layer.", ge=0, traced=True, needs="layer"
    )


@dataclass(frozen=True)
class ScaledInit(Init):
    """Every scheme but ``zeros``: ``gain`` times what the scheme draws."""

    gain: float = setting(1.0, "Factor on the initial weights.", ge=0, traced=True)


@dataclass(frozen=True)
class GaussianInit(ScaledInit):
    """``gaussian``: Var W = (gain·sigma_w)² / fan_in (Poole et al. 2016)."""

    kind: InitKind = InitKind.gaussian
    sigma_w: float = setting(
        1.0, "Standard deviation of initial weights, times √fan_in.", ge=0, traced=True
    )


@dataclass(frozen=True)
class SchurInit(ScaledInit):
    """``schur``: square matrices with a given spectral radius that need not be normal."""

    kind: InitKind = InitKind.schur
    spectral_radius: float = setting(
        1.0, "Modulus of every eigenvalue of a square matrix, before gain.", ge=0, traced=True
    )
    nonnormality: float = setting(
        0.0,
        "Size of the part above the diagonal in Schur's form; 0: a multiple of the identity.",
        ge=0,
        traced=True,
    )


@dataclass(frozen=True)
class Optimizer:
    """The update rule, its schedule and its gradient clipping."""

    kind: OptimizerKind = OptimizerKind.sgd
    learning_rate: float = setting(0.01, "Peak learning rate.", ge=0, traced=True)
    weight_decay: float = setting(
        0.0,
        "Factor on the weights that are added to the gradient; with adamw, lion and muon they are "
        "added to the update instead. The learning rate multiplies both.",
        ge=0,
        traced=True,
    )
    decay_mask: DecayMask = setting(
        DecayMask.all,
        "What decays: all parameters, or weight matrices, kernels and embeddings without biases, "
        "gates, the mixing of streams and the parameters of norms.",
    )
    frozen_layer: int | None = setting(
        None, "A layer, counted from 0, that keeps its initial weights.", ge=0
    )
    schedule: Schedule = setting(Schedule.constant, "How the learning rate changes over the run.")
    warmup_steps: int = setting(
        0,
        "Steps over which the learning rate rises linearly.",
        ge=0,
        lt=MAX_STEPS,
        traced=True,
        only_with={"schedule": WARMUPS},
    )
    decay_steps: int = setting(
        0,
        "Steps after which a cosine has its end value, warm-up included; 0: all steps of the run.",
        ge=0,
        lt=2**31,
        traced=True,
        only_with={"schedule": (Schedule.cosine, Schedule.warmup_cosine)},
    )
    transition_steps: int = setting(
        0,
        "Steps of a linear or polynomial fall, or of a decay by decay_rate; 0: all steps of the "
        "run after the warm-up.",
        ge=0,
        lt=2**31,
        traced=True,
        only_with={
            "schedule": (
                Schedule.linear,
                Schedule.polynomial,
                Schedule.exponential,
                Schedule.warmup_exponential,
            )
        },
    )
    end_value: float = setting(
        0.0,
        "Learning rate that the schedule falls to; exponential decay stays at it.",
        ge=0,
        traced=True,
        only_with={
            "schedule": (
                Schedule.cosine,
                Schedule.warmup_cosine,
                Schedule.linear,
                Schedule.polynomial,
                Schedule.exponential,
                Schedule.warmup_exponential,
            )
        },
    )
    power: float = setting(
        2.0,
        "Exponent of a polynomial fall.",
        gt=0,
        traced=True,
        only_with={"schedule": (Schedule.polynomial,)},
    )
    decay_rate: float = setting(
        0.1,
        "Factor on the learning rate over transition_steps.",
        gt=0,
        le=1,
        traced=True,
        only_with={"schedule": (Schedule.exponential, Schedule.warmup_exponential)},
    )
    staircase: bool = setting(
        False,
        "Whether exponential decay is applied at whole multiples of transition_steps only.",
        only_with={"schedule": (Schedule.exponential, Schedule.warmup_exponential)},
    )
    boundaries: tuple[int, ...] = setting(
        (),
        "Steps from which on the learning rate is multiplied by decay_factor once more; "
        "[]: one half and three quarters of the run.",
        only_with={"schedule": (Schedule.step,)},
    )
    decay_factor: float = setting(
        0.1,
        "Factor on the learning rate at each boundary.",
        ge=0,
        le=1,
        traced=True,
        only_with={"schedule": (Schedule.step,)},
    )
    clip: Clip = setting(
        Clip.none,
        "How the gradient is clipped after unscaling, before weight decay and the update.",
    )
    clip_threshold: float = setting(
        1.0,
        "The bound on the norm of the whole gradient (global_norm), on each element's magnitude "
        "(value), or on the norm of a unit's gradient over that of its weights, which counts as at "
        "least 1e-3 (adaptive). Units are the columns of matrices; all biases of a layer are one "
        "unit, and so is each other vector.",
        gt=0,
        traced=True,
        only_with={"clip": (Clip.global_norm, Clip.value, Clip.adaptive)},
    )


@dataclass(frozen=True)
class Momentum(Optimizer):
    """``momentum`` and ``nesterov``."""

    kind: OptimizerKind = OptimizerKind.momentum
    momentum: float = setting(0.9, "Decay of the momentum.", ge=0, lt=1, traced=True)


@dataclass(frozen=True)
class Lion(Optimizer):
    """``lion`` (Chen et al. 2023)."""

    kind: OptimizerKind = OptimizerKind.lion
    beta1: float = setting(0.9, "Weight of the momentum in the update.", ge=0, lt=1, traced=True)
    beta2: float = setting(0.999, "Decay of the momentum.", ge=0, lt=1, traced=True)


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """``adagrad`` (Duchi et al. 2011)."""

    kind: OptimizerKind = OptimizerKind.adagrad
    epsilon: float = setting(
        1e-8,
        "Added to the denominator; with adagrad under its root, with muon also to the norm of a "
        "matrix's momentum.",
        ge=0,
        traced=True,
    )


@dataclass(frozen=True)
class RMSProp(AdaGrad):
    """``rmsprop`` (Tieleman & Hinton 2012)."""

    kind: OptimizerKind = OptimizerKind.rmsprop
    beta2: float = setting(
        0.999, "Decay of the average of squared gradients.", ge=0, lt=1, traced=True
    )


@dataclass(frozen=True)
class Adam(RMSProp):
    """``adam`` and ``adamw``."""

    kind: OptimizerKind = OptimizerKind.adam
    beta1: float = setting(0.9, "Decay of the average of gradients.", ge=0, lt=1, traced=True)


@dataclass(frozen=True)
class Muon(Adam):
    """``muon`` (Jordan et al. 2024); the numbers of Adam are for everything but hidden matrices."""

    kind: OptimizerKind = OptimizerKind.muon
    momentum: float = setting(
        0.9,
        "Decay of the momentum of hidden matrices, an average with bias correction as in Optax.",
        ge=0,
        lt=1,
        traced=True,
    )


@dataclass(frozen=True)
class Precision:
    """The number formats of weights and arithmetic, and loss scaling."""

    kind: PrecisionKind = PrecisionKind.float32
    loss_scaling: LossScaling = setting(
        LossScaling.none, "Whether the loss is multiplied before the backward pass."
    )
    loss_scale: float = setting(
        2.0**15,
        "Factor on the loss; of dynamic scaling, the first one.",
        gt=1e-38,
        lt=1e38,
        traced=True,
        only_with={"loss_scaling": (LossScaling.static, LossScaling.dynamic)},
    )
    growth_factor: float = setting(
        2.0,
        "Factor on the loss scale after growth_interval finite steps.",
        gt=1,
        traced=True,
        only_with={"loss_scaling": (LossScaling.dynamic,)},
    )
    growth_interval: int = setting(
        2000,
        "Finite steps in a row after which the loss scale grows.",
        ge=1,
        lt=MAX_STEPS,
        traced=True,
        only_with={"loss_scaling": (LossScaling.dynamic,)},
    )
    backoff_factor: float = setting(
        0.5,
        "Factor on the loss scale after a step whose gradient is not finite.",
        gt=0,
        lt=1,
        traced=True,
        only_with={"loss_scaling": (LossScaling.dynamic,)},
    )
    layers: tuple[str, ...] = setting(
        (),
        "Layers whose arithmetic has another format than the rest, such as 17-18:float32; layers "
        "count from 0. Parameters keep their format.",
    )


@dataclass(frozen=True)
class BFloat16(Precision):
    """``bfloat16``: weights, activations and gradients in bfloat16."""

    kind: PrecisionKind = PrecisionKind.bfloat16
    stochastic_rounding: bool = setting(
        False, "Whether updated weights are rounded stochastically."
    )


@dataclass(frozen=True)
class Float8(Precision):
    """``float8_e4m3``, ``float8_e5m2``: inputs of layers and their gradients in 8 bits."""

    kind: PrecisionKind = PrecisionKind.float8_e4m3
    tensor_scale: bool = setting(
        False, "Whether each array is shifted to the top of the format's range before rounding."
    )


@dataclass(frozen=True)
class Float4(Precision):
    """``float4_e2m1``: inputs of layers, their gradients and weights in 4 bits, in blocks."""

    kind: PrecisionKind = PrecisionKind.float4_e2m1
    block_scale: BlockScale = setting(
        BlockScale.nv,
        "Blocks of 32 elements with a power of two as their scale (mx), or of 16 with a scale in "
        "float8_e4m3 (nv).",
    )
    stochastic_gradients: bool = setting(
        True, "Whether gradients are rounded stochastically; all else is rounded to nearest."
    )
    round_weights: bool = setting(True, "Whether the weights that layers multiply by are rounded.")


@dataclass(frozen=True)
class Loss:
    """What is minimised."""

    kind: LossKind = LossKind.cross_entropy
    label_smoothing: float = setting(
        0.0,
        "Share of the target that is spread evenly over all classes in the training loss; the "
        "evaluation has none.",
        ge=0,
        lt=1,
        traced=True,
    )


@dataclass(frozen=True)
class Measure:
    """Which gauges run inside the step, and at which interval."""

    level: Level = Level.off
    inspect: tuple[str, ...] = setting(
        (), f"Slower measurements on an interval: {', '.join(INSPECTIONS)}."
    )
    inspect_every: int = setting(50, "Steps between two of them.", ge=1, needs="inspect")


@dataclass(frozen=True)
class MeasureNorms(Measure):
    """``norms``: norms of gradients and activations."""

    level: Level = Level.norms
    every: int = setting(1, "Steps between measured steps.", ge=1, lt=MAX_STEPS)


@dataclass(frozen=True)
class MeasureFull(MeasureNorms):
    """``full``: every gauge, and histograms of the gradients' exponents."""

    level: Level = Level.full
    exponents_every: int = setting(
        100,
        "Steps between histograms of exponents: a multiple of measure.every, to which the default "
        "is rounded up.",
        ge=1,
    )


LOCAL_TRACKER_NAMES = ("tensorboard", "trackio", "mlflow")
TRACKER_NAMES = ("wandb", *LOCAL_TRACKER_NAMES)


@dataclass(frozen=True)
class Tracker:
    """Dashboards that mirror the record, besides the run directory."""

    wandb: bool = setting(False, "Whether runs are mirrored to Weights & Biases.")
    tensorboard: bool = setting(
        False, "Whether run directories hold event files, which TensorBoard shows."
    )
    trackio: bool = setting(False, "Whether runs are mirrored to trackio, on this machine.")
    mlflow: bool = setting(
        False, "Whether runs are mirrored to MLflow; the experiment is the study of the runs."
    )
    dir: str = setting(
        "outputs",
        "Directory of the dashboards' own files: wandb/, trackio/ and mlflow.db. The environment "
        "variables WANDB_DIR, TRACKIO_DIR and MLFLOW_TRACKING_URI take precedence.",
        needs=("wandb", "trackio", "mlflow"),
    )
    project: str = setting("fathom", "The W&B project.", needs="wandb")
    entity: str | None = setting(None, "The W&B entity.", needs="wandb")
    layers: TrackedLayers = setting(
        TrackedLayers.spread,
        "Layers with values of their own, besides numbers that summarise all of them: spread: at "
        "most 16, with names that do not depend on the depth.",
        needs=TRACKER_NAMES,
    )
    every: int = setting(
        10,
        "Steps between rows with values of single layers.",
        ge=1,
        needs=TRACKER_NAMES,
        only_with={"layers": (TrackedLayers.spread, TrackedLayers.all)},
    )
    finish_timeout: float = setting(
        60.0,
        "Seconds that the W&B server may take at the end of the runs.",
        gt=0,
        needs="wandb",
    )


@dataclass(frozen=True)
class Mesh:
    """Over which devices a run's batch is split; results change by rounding only."""

    kind: MeshKind = MeshKind.auto


@dataclass(frozen=True)
class DistributedMesh(Mesh):
    """``distributed``: several processes.

    Set all three unless a cluster manager such as Slurm provides them.
    """

    kind: MeshKind = MeshKind.distributed
    coordinator: str | None = setting(None, "host:port of the first process.")
    processes: int | None = setting(None, "How many processes there are.", ge=1)
    process: int | None = setting(None, "Index of this process, from 0.", ge=0)


@dataclass(frozen=True)
class Checkpoint:
    """How often a run's state is saved, so that the same command continues from there."""

    every: float | None = setting(
        60.0, "Seconds between checkpoints, more where saving takes long; null: none.", gt=0
    )
    keep: bool = setting(False, "Whether the last checkpoint stays after the run has ended.")


@dataclass(frozen=True)
class Diagnose:
    """What findings do while a run lasts."""

    stop: tuple[str, ...] = setting(
        (), f"Severe findings that end the run early: {', '.join(STOP_KINDS)}."
    )
    every: float | None = setting(
        5.0,
        "Seconds between two verdicts on a running run, more where forming one takes long; "
        "null: none before its end.",
        gt=0,
    )
