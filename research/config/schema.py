"""The typed configuration: every knob, its range, and whether it is *traced*.

A traced number does not change shapes: it enters the compiled program as an argument, so two runs that differ
only in traced numbers share one program. Everything else selects the program. No jax here: this module is read
before anything heavy is imported.
"""

import dataclasses
import enum
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from research.config.checkpoint_config import Checkpoint as Checkpoint
from research.config.data_settings import Data as Data
from research.config.data_settings import DataKind as DataKind
from research.config.fields import number

ModelKind = enum.Enum("ModelKind", ["mlp", "cnn", "resnet_cifar", "resnet", "transformer", "rnn"])
Cell = enum.Enum("Cell", ["elman", "gru", "lstm"])
Positions = enum.Enum("Positions", ["learned", "rotary", "none"])
Transition = enum.Enum("Transition", ["pad", "projection"])
Padding = enum.Enum("Padding", ["zero", "circular"])
SkipKind = enum.Enum(
    "SkipKind",
    "none identity scaled inv_sqrt_depth rezero skipinit fixup highway gated projection dropout deepnorm "
    "stochastic_depth dense",
)
NormKind = enum.Enum("NormKind", ["none", "layer", "batch", "rms", "group", "dyt"])
Placement = enum.Enum("Placement", ["pre", "post", "branch"])
ActivationKind = enum.Enum("ActivationKind", "relu tanh sigmoid gelu silu elu selu softsign linear")
InitKind = enum.Enum(
    "InitKind",
    [
        "he",
        "glorot",
        "glorot_uniform",
        "lecun",
        "old_uniform",
        "gaussian",
        "orthogonal",
        "delta_orthogonal",
        "zeros",
    ],
)
OptimizerKind = enum.Enum(
    "OptimizerKind", "gd sgd momentum adam adamw nesterov rmsprop adagrad lion muon"
)
Schedule = enum.Enum("Schedule", ["constant", "warmup", "warmup_cosine", "step", "linear"])
Clip = enum.Enum("Clip", ["none", "global_norm", "value", "adaptive"])
PrecisionKind = enum.Enum(
    "PrecisionKind",
    "float32 float64 bfloat16 mixed_bfloat16 float16 mixed_float16 float8_e4m3 float8_e5m2",
)
LossScaling = enum.Enum("LossScaling", ["none", "static", "dynamic"])
LossKind = enum.Enum("LossKind", ["cross_entropy", "mse"])
Level = enum.Enum("Level", ["off", "norms", "full"])
INSPECTIONS = [
    "sharpness",
    "jacobian_spectrum",
    "gradient_correlation",
    "input_gradient",
    "output_change",
    "difference_errors",
]
INSPECTIONS += ["scale_derivative", "scale_invariance", "balance"]
MeshKind = enum.Enum("MeshKind", ["auto", "single", "data_parallel", "distributed"])
MapMode = enum.Enum(
    "MapMode", ["auto", "map", "vmap"]
)  # of the launchers; here, since Hydra loads plugins twice


@dataclass
class Train:
    """How long to train, on how many examples at once; ``steps`` wins where given."""

    steps: int | None = number(None, ge=1, lt=2**31)
    epochs: float = number(30.0, gt=0)
    batch_size: int = number(128, ge=1)
    eval_every: int | None = number(None, ge=1)  # steps between evaluations; null: once an epoch
    input_noise: float = number(
        0.0, ge=0, traced=True
    )  # standard deviation of the noise added to each input


@dataclass
class Model:
    """The network between an embedding and a head; ``depth`` counts as its paper does, for ``rnn`` it is time."""

    kind: ModelKind = ModelKind.mlp
    depth: int = number(16, ge=1)
    width: int = number(64, ge=1)  # of resnet_cifar and resnet: that of the first stage
    bias: bool = True
    dropout: float = number(0.0, ge=0, lt=1, traced=True)  # in front of each branch's last weights
    recompute: bool = False  # activations again in the backward pass, instead of keeping them
    heads: int = number(4, ge=1)  # transformer
    expansion: int = number(4, ge=1)  # transformer: units of the feed-forward part, in widths
    positions: Positions = Positions.learned  # transformer
    tied: bool = False  # transformer on text: the head uses the embedding's weights
    cell: Cell = Cell.elman  # rnn
    transition: Transition = (
        Transition.pad
    )  # resnet_cifar, resnet: the shortcut where the shape changes
    padding: Padding = Padding.zero  # cnn, resnet_cifar, resnet


@dataclass
class Skip:
    """The shortcut around each block: h + F(h), scaled as ``kind`` says."""

    kind: SkipKind = SkipKind.none
    branch_scale: float = number(
        1.0, traced=True
    )  # scaled; skipinit: the learned scale at the start
    shortcut_scale: float = number(1.0, traced=True)  # scaled
    gate_bias: float = number(-2.0, traced=True)  # highway, gated
    rate: float = number(
        0.5, ge=0, lt=1, traced=True
    )  # dropout; stochastic_depth: that of the last layer
    growth: int = number(12, ge=1)  # dense: units that each layer adds


@dataclass
class Norm:
    """The normalisation of each block and where it stands."""

    kind: NormKind = NormKind.none
    groups: int = number(8, ge=1)  # group
    placement: Placement = Placement.pre


@dataclass
class Activation:
    """The nonlinearity."""

    kind: ActivationKind = ActivationKind.relu


@dataclass
class Init:
    """How weights (``gain`` times the scheme's draw) and biases (sigma_b times a standard normal) begin."""

    kind: InitKind = InitKind.he
    gain: float = number(1.0, ge=0, traced=True)
    sigma_w: float = number(1.0, ge=0, traced=True)  # gaussian only: Var W = sigma_w^2 / fan_in
    sigma_b: float = number(0.0, ge=0, traced=True)


@dataclass
class Optimizer:
    """The update rule, its schedule and its gradient clipping."""

    kind: OptimizerKind = OptimizerKind.momentum
    learning_rate: float = number(0.01, ge=0, traced=True)
    momentum: float = number(
        0.9, ge=0, lt=1, traced=True
    )  # momentum, nesterov; muon: that of hidden matrices
    beta1: float = number(0.9, ge=0, lt=1, traced=True)  # adam, adamw, lion, muon
    beta2: float = number(0.999, ge=0, lt=1, traced=True)  # adam, adamw, lion, muon, rmsprop
    epsilon: float = number(1e-8, ge=0, traced=True)
    weight_decay: float = number(0.0, ge=0, traced=True)
    schedule: Schedule = Schedule.constant
    warmup_steps: int = number(0, ge=0, lt=2**31, traced=True)  # warmup, warmup_cosine
    decay_factor: float = number(
        0.1, ge=0, le=1, traced=True
    )  # step only: at 1/2 and 3/4 of the run
    clip: Clip = Clip.none
    clip_threshold: float = number(1.0, gt=0, traced=True)


@dataclass
class Precision:
    """The number formats of weights and arithmetic, and the factor on the loss before the backward pass."""

    kind: PrecisionKind = PrecisionKind.float32
    stochastic_rounding: bool = False  # bfloat16: of the weights, behind each update
    tensor_scale: bool = (
        False  # float8: each array is shifted to the top of the format's range before it is rounded
    )
    loss_scaling: LossScaling = LossScaling.none
    loss_scale: float = number(
        2.0**15, gt=1e-38, lt=1e38, traced=True
    )  # static; dynamic: the first one
    growth_factor: float = number(
        2.0, gt=1, traced=True
    )  # dynamic: behind growth_interval finite steps
    growth_interval: int = number(2000, ge=1, lt=2**31, traced=True)
    backoff_factor: float = number(
        0.5, gt=0, lt=1, traced=True
    )  # dynamic: behind a step that is left out


@dataclass
class Loss:
    """What is minimised."""

    kind: LossKind = LossKind.cross_entropy
    label_smoothing: float = number(0.0, ge=0, lt=1, traced=True)


@dataclass
class Measure:
    """Which gauges run inside the step, and every how many steps."""

    level: Level = Level.norms
    every: int = number(1, ge=1)
    exponents_every: int = number(
        100, ge=1
    )  # full: steps between histograms of the gradients' exponents
    inspect: list[str] = field(
        default_factory=list
    )  # slower measurements beside the step, some of INSPECTIONS
    inspect_every: int = number(50, ge=1)


@dataclass
class Tracker:
    """Where the record is mirrored, besides the run directory."""

    wandb: bool = False
    dir: str = "outputs"  # W&B makes its folder wandb/ in it; WANDB_DIR wins
    project: str = "fathom"
    entity: str | None = None
    every: int = number(10, ge=1)  # steps between rows that carry one value a layer


@dataclass
class Mesh:
    """Over which devices a run's batch is split; it changes no number but by rounding."""

    kind: MeshKind = MeshKind.auto
    coordinator: str | None = (
        None  # distributed, where no cluster manager tells: host:port of the first process
    )
    processes: int | None = number(None, ge=1)  # likewise: how many there are
    process: int | None = number(None, ge=0)  # likewise: which one this is, from 0


@dataclass
class Config:
    """One run. Groups are folders of ``conf/``; ``name`` names the folder under outputs/."""

    seed: int = number(0, ge=0, lt=2**32, traced=True)
    name: str | None = None
    train: Train = field(default_factory=Train)
    model: Model = field(default_factory=Model)
    skip: Skip = field(default_factory=Skip)
    norm: Norm = field(default_factory=Norm)
    activation: Activation = field(default_factory=Activation)
    init: Init = field(default_factory=Init)
    optimizer: Optimizer = field(default_factory=Optimizer)
    precision: Precision = field(default_factory=Precision)
    loss: Loss = field(default_factory=Loss)
    data: Data = field(default_factory=Data)
    measure: Measure = field(default_factory=Measure)
    tracker: Tracker = field(default_factory=Tracker)
    mesh: Mesh = field(default_factory=Mesh)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


def iter_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every (dotted path, field, value) of a configuration, groups descended into."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        path = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from iter_fields(value, f"{path}.")
        else:
            yield path, item, value


def traced(config: Config) -> dict[str, float | int]:
    """The numbers that enter the compiled program as arguments, by dotted path."""
    return {path: value for path, item, value in iter_fields(config) if item.metadata.get("traced")}


def flatten(config: Config) -> dict[str, Any]:
    """The configuration as a flat dictionary of dotted paths to JSON values."""
    return {
        path: value.name if isinstance(value, enum.Enum) else value
        for path, _, value in iter_fields(config)
    }


def setting_paths(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted path that can be set, from the schema alone."""
    for name, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            yield from setting_paths(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries of JSON values."""
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return {
        name: to_dict(value)
        if dataclasses.is_dataclass(value)
        else value.name
        if isinstance(value, enum.Enum)
        else value
        for name, value in values.items()
    }
