"""Checks that the chosen options are compatible.

Combinations that depend on the data are in ``research.data.compatibility``.
"""

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from research.config.layer_formats import PATH as LAYERS_PATH
from research.config.layer_formats import parse_layer_formats
from research.config.options import (
    CONVOLUTIONAL,
    DEPTH_SCALED,
    RESNET_DEPTHS,
    RESNETS,
    ActivationKind,
    AffineNorm,
    CellKind,
    DenseSkip,
    FeedForward,
    FullyConnected,
    GroupNorm,
    InitKind,
    Level,
    Model,
    ModelKind,
    NormKind,
    NormScale,
    Optimizer,
    OptimizerKind,
    Parametrization,
    Placement,
    Positions,
    PrecisionKind,
    Recurrent,
    ResNet,
    Schedule,
    SkipKind,
    Transformer,
)
from research.config.schema import Config

MAX_WIDTH = 2**31 - 1  # of the units of a layer, which XLA counts in 32 bits
RECURRENT_SKIPS = (
    SkipKind.none,
    SkipKind.identity,
    SkipKind.scaled,
    SkipKind.inv_sqrt_depth,
)


@dataclass(frozen=True)
class Conflict:
    """A setting that does not go with the other settings.

    Attributes:
        path: the setting or group that has to change.
        valid: what would be valid, in words.
        got: the present value.
        reason: why, or nothing where ``valid`` says it all.
    """

    path: str
    valid: str
    got: object
    reason: str = ""

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.path} must be {self.valid}{reason}, got {self.got}"


def raise_first(conflicts: Iterator[Conflict]) -> None:
    """Raises ValueError for the first conflict, if there is one."""
    for conflict in conflicts:
        raise ValueError(str(conflict))


def check_compatibility(config: Config) -> None:
    """Checks combinations of options.

    Raises:
        ValueError: saying what would be valid, for the first combination that makes no sense.
    """
    raise_first(_conflicts(config))


def _conflicts(config: Config) -> Iterator[Conflict]:
    yield from _skip_conflicts(config)
    yield from _norm_conflicts(config)
    yield from _model_conflicts(config)
    yield from _parametrization_conflicts(config)
    yield from _branch_weights_conflicts(config)
    yield from _init_conflicts(config)
    yield from _layer_conflicts(config)
    yield from _inspection_conflicts(config)
    yield from _stop_conflicts(config)
    yield from _schedule_conflicts(config.optimizer)
    yield from _layer_format_conflicts(config)
    if config.optimizer.kind is OptimizerKind.gd and config.train.batch_size != 128:
        yield Conflict(
            path="train.batch_size",
            valid="left out",
            got=config.train.batch_size,
            reason="optimizer=gd uses all training examples in every step",
        )


def _schedule_conflicts(optimizer: Optimizer) -> Iterator[Conflict]:
    """Numbers of a schedule that contradict each other; Optax refuses the first ones too."""
    warmup = optimizer.warmup_steps
    if optimizer.schedule is Schedule.warmup_cosine and 0 < optimizer.decay_steps <= warmup:
        yield Conflict(
            path="optimizer.decay_steps",
            valid=f"> optimizer.warmup_steps={warmup}",
            got=optimizer.decay_steps,
            reason="it includes the warm-up",
        )
    is_exponential = optimizer.schedule in (Schedule.exponential, Schedule.warmup_exponential)
    if is_exponential and optimizer.end_value > optimizer.learning_rate:
        yield Conflict(
            path="optimizer.end_value",
            valid=f"≤ optimizer.learning_rate={optimizer.learning_rate}",
            got=optimizer.end_value,
            reason="exponential decay stays at it",
        )


def _layer_format_conflicts(config: Config) -> Iterator[Conflict]:
    """``precision.layers`` needs layers of their own, and formats that differ from the rest."""
    entries = config.precision.layers
    if not entries:
        return
    got = ", ".join(entries)
    kind = config.precision.kind
    if config.model.kind is ModelKind.rnn:
        reason = "the steps of an rnn share one layer"
        yield Conflict(path=LAYERS_PATH, valid="left out", got=got, reason=reason)
    if kind is PrecisionKind.float64:
        reason = "precision=float64 has no wider format"
        yield Conflict(path=LAYERS_PATH, valid="left out", got=got, reason=reason)
    own_format = kind.name.removeprefix("mixed_")
    for entry in parse_layer_formats(entries):
        if entry.kind.name == own_format:
            yield Conflict(
                path=LAYERS_PATH,
                valid="in other formats than the rest",
                got=entry,
                reason=f"precision={kind.name} computes in {own_format} everywhere",
            )


def _skip_conflicts(config: Config) -> Iterator[Conflict]:
    kind = config.skip.kind
    if isinstance(config.model, Recurrent):
        yield from _recurrent_skip_conflicts(config.model, kind)
    match kind:
        case SkipKind.deepnorm:
            yield from _deepnorm_conflicts(config)
        case SkipKind.fixup:
            yield from _fixup_conflicts(config)
        case SkipKind.dense:
            yield from _dense_conflicts(config)
        case SkipKind.hyper | SkipKind.mhc:
            yield from _stream_conflicts(config)


def _recurrent_skip_conflicts(model: Recurrent, kind: SkipKind) -> Iterator[Conflict]:
    if model.cell is not CellKind.elman and kind is not SkipKind.none:
        reason = f"model.cell={model.cell.name} has gates already"
        yield Conflict(
            path="skip",
            valid="none",
            got=kind.name,
            reason=reason,
        )
    if kind not in RECURRENT_SKIPS:
        names = ", ".join(skip.name for skip in RECURRENT_SKIPS)
        yield Conflict(
            path="skip",
            valid=f"one of {names}",
            got=kind.name,
            reason="the steps of an rnn share one layer",
        )


def _deepnorm_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    norm = config.norm
    if model is not ModelKind.transformer:
        reason = "skip=deepnorm is defined only for transformers"
        yield Conflict(
            path="model",
            valid="transformer",
            got=model.name,
            reason=reason,
        )
    reason = "skip=deepnorm normalises after the sum"
    if norm.kind not in (NormKind.layer, NormKind.rms):
        yield Conflict(
            path="norm",
            valid="layer or rms",
            got=norm.kind.name,
            reason=reason,
        )
    if norm.placement is not Placement.post:
        yield Conflict(
            path="norm.placement",
            valid="post",
            got=norm.placement.name,
            reason=reason,
        )


def _fixup_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    if model not in (ModelKind.mlp, *CONVOLUTIONAL):
        reason = f"skip=fixup is not defined for model={model.name}"
        yield Conflict(
            path="skip",
            valid="rezero or deepnorm",
            got="fixup",
            reason=reason,
        )
    if config.norm.kind is not NormKind.none:
        reason = "skip=fixup is an initialisation that replaces normalisation"
        yield Conflict(
            path="norm",
            valid="none",
            got=config.norm.kind.name,
            reason=reason,
        )


def _dense_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    norm = config.norm
    if model not in (ModelKind.mlp, ModelKind.cnn):
        reason = "skip=dense needs layers whose width can grow"
        yield Conflict(
            path="model",
            valid="mlp or cnn",
            got=model.name,
            reason=reason,
        )
    if norm.kind not in (NormKind.none, NormKind.batch):
        reason = "other norms would count units that skip=dense has not filled yet"
        yield Conflict(
            path="norm",
            valid="none or batch",
            got=norm.kind.name,
            reason=reason,
        )
    if norm.kind is NormKind.batch and norm.placement is not Placement.pre:
        reason = "skip=dense normalises the input of each layer"
        yield Conflict(
            path="norm.placement",
            valid="pre",
            got=norm.placement.name,
            reason=reason,
        )
    yield from _dense_width_conflicts(config)


def _stream_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    skip = config.skip.kind.name
    if model in RESNETS:
        reason = f"skip={skip} needs layers of one shape"
        yield Conflict(
            path="model",
            valid="mlp, cnn or transformer",
            got=model.name,
            reason=reason,
        )
    has_norm = config.norm.kind is not NormKind.none
    if has_norm and config.norm.placement is Placement.post:
        reason = f"skip={skip} has several streams after the sum"
        yield Conflict(
            path="norm.placement",
            valid="pre, branch or peri",
            got=config.norm.placement.name,
            reason=reason,
        )


def _branch_weights_conflicts(config: Config) -> Iterator[Conflict]:
    if not isinstance(config.model, FullyConnected) or config.model.branch_weights == 1:
        return
    if config.skip.kind is SkipKind.dense:
        yield Conflict(
            path="model.branch_weights",
            valid="1",
            got=config.model.branch_weights,
            reason="skip=dense widens the signal after each weight matrix",
        )


def _layer_conflicts(config: Config) -> Iterator[Conflict]:
    """Settings that name one layer of the network."""
    chosen = {
        "init.layer": config.init.layer,
        "optimizer.frozen_layer": config.optimizer.frozen_layer,
    }
    layers = count_layers(config.model)
    for path, layer in chosen.items():
        if layer is None:
            continue
        if layers is None:
            reason = f"all layers of {config.model.kind.name} share their weights"
            yield Conflict(path=path, valid="null", got=layer, reason=reason)
        elif layer >= layers:
            reason = f"the network has {layers} layers"
            yield Conflict(path=path, valid=f"< {layers}", got=layer, reason=reason)


def count_layers(model: Model) -> int | None:
    """The layers of a network; None where all of them share their weights."""
    match model:
        case Recurrent():
            return None
        case Transformer(expansion=expansion):
            return model.depth * (2 if expansion else 1)
        case ResNet(kind=ModelKind.resnet_cifar):
            return (model.depth - 2) // 2
        case ResNet():
            return RESNET_LAYERS[model.depth]
    return model.depth


def _dense_width_conflicts(config: Config) -> Iterator[Conflict]:
    """The width grows with the depth, up to what an array can have."""
    if not isinstance(config.skip, DenseSkip) or not isinstance(config.model, FeedForward):
        return
    growth = config.skip.growth
    max_depth = (MAX_WIDTH - config.model.width) // growth
    if config.model.depth > max_depth >= 1:
        yield Conflict(
            path="model.depth",
            valid=f"≤ {max_depth}",
            got=config.model.depth,
            reason=f"skip=dense adds skip.growth={growth} units in each layer",
        )
    elif max_depth < 1:
        yield Conflict(
            path="skip.growth",
            valid=f"≤ {MAX_WIDTH - config.model.width}",
            got=growth,
            reason=f"the first layer is model.width={config.model.width} units wide",
        )


def _norm_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model
    kind = config.norm.kind
    if (
        isinstance(model, Recurrent)
        and model.cell is not CellKind.elman
        and kind is not NormKind.none
    ):
        reason = f"model.cell={model.cell.name} keeps its state bounded already"
        yield Conflict(
            path="norm",
            valid="none",
            got=kind.name,
            reason=reason,
        )
    placement = config.norm.placement
    has_effect = kind is not NormKind.none or model.kind in RESNETS
    if not has_effect and placement is not Placement.pre:
        reason = "without a norm it has an effect only on ResNets"
        yield Conflict(
            path="norm.placement",
            valid="pre",
            got=placement.name,
            reason=reason,
        )
    if placement is Placement.peri and model.kind in RESNETS:
        reason = f"peri is not an order of {model.kind.name}"
        yield Conflict(
            path="norm.placement",
            valid="pre, post or branch",
            got=placement.name,
            reason=reason,
        )
    if isinstance(config.norm, AffineNorm):
        yield from _norm_scale_conflicts(config.norm, model.kind)
    if kind is NormKind.batch:
        yield from _batch_norm_conflicts(config)
    if isinstance(config.norm, GroupNorm):
        yield from _group_norm_conflicts(config.norm, config)


def _norm_scale_conflicts(norm: AffineNorm, model: ModelKind) -> Iterator[Conflict]:
    if norm.scale is not NormScale.one and model in (*RESNETS, ModelKind.rnn):
        reason = f"norm.scale counts blocks of one shape, which {model.name} has not"
        yield Conflict(
            path="norm.scale",
            valid="one",
            got=norm.scale.name,
            reason=reason,
        )


def _batch_norm_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    if model in (ModelKind.transformer, ModelKind.rnn):
        reason = f"statistics over the batch would mix the positions of a {model.name}"
        yield Conflict(
            path="norm",
            valid="none, layer, rms, group or dyt",
            got="batch",
            reason=reason,
        )
    full_batch = config.optimizer.kind is OptimizerKind.gd
    if model is ModelKind.mlp and config.train.batch_size == 1 and not full_batch:
        reason = "norm=batch subtracts the mean, which leaves zeros of a single example"
        yield Conflict(
            path="train.batch_size",
            valid="≥ 2",
            got=1,
            reason=reason,
        )


def _group_norm_conflicts(norm: GroupNorm, config: Config) -> Iterator[Conflict]:
    width = config.model.width
    if width % norm.groups:
        valid = f"a divisor of model.width={width}: {join_numbers(divisors(width))}"
        yield Conflict(
            path="norm.groups",
            valid=valid,
            got=norm.groups,
        )
    if norm.groups == width and config.model.kind not in CONVOLUTIONAL:
        reason = "norm=group subtracts the mean, which leaves zeros of a single unit"
        yield Conflict(
            path="norm.groups",
            valid=f"< model.width={width}",
            got=norm.groups,
            reason=reason,
        )


def _cell_conflicts(model: Recurrent, config: Config) -> Iterator[Conflict]:
    activation = config.activation.kind
    if model.cell is not CellKind.elman and activation is not ActivationKind.tanh:
        yield Conflict(
            path="activation",
            valid="tanh",
            got=activation.name,
            reason=f"model.cell={model.cell.name} has its own nonlinearities",
        )


def _model_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model
    if isinstance(model, Recurrent):
        yield from _cell_conflicts(model, config)
        return
    match model.kind:
        case ModelKind.resnet_cifar if model.depth < 8 or (model.depth - 2) % 6:
            below = max(8, 6 * ((model.depth - 2) // 6) + 2)
            valid = f"6n+2 for resnet_cifar, such as {below} or {below + 6}"
            yield Conflict(
                path="model.depth",
                valid=valid,
                got=model.depth,
            )
        case ModelKind.resnet if model.depth not in RESNET_DEPTHS:
            valid = f"one of {join_numbers(RESNET_DEPTHS)} for resnet"
            yield Conflict(
                path="model.depth",
                valid=valid,
                got=model.depth,
            )
    if isinstance(model, Transformer):
        yield from _head_conflicts(model)


def _parametrization_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model
    if not isinstance(model, FeedForward) or model.parametrization is Parametrization.standard:
        return
    name = model.parametrization.name
    if model.kind not in (ModelKind.mlp, ModelKind.transformer):
        reason = f"model.parametrization={name} is defined for layers of one width"
        yield Conflict(
            path="model",
            valid="mlp or transformer",
            got=model.kind.name,
            reason=reason,
        )
    if config.optimizer.kind not in (OptimizerKind.adam, OptimizerKind.adamw):
        reason = f"model.parametrization={name} changes the learning rates of Adam"
        yield Conflict(
            path="optimizer",
            valid="adam or adamw",
            got=config.optimizer.kind.name,
            reason=reason,
        )
    if model.parametrization in DEPTH_SCALED and config.skip.kind is not SkipKind.identity:
        reason = f"model.parametrization={name} multiplies the branch itself"
        yield Conflict(
            path="skip",
            valid="identity",
            got=config.skip.kind.name,
            reason=reason,
        )
    if isinstance(model, Transformer) and model.tied:
        reason = f"model.parametrization={name} treats embedding and head differently"
        yield Conflict(
            path="model.tied",
            valid="false",
            got="true",
            reason=reason,
        )


def _head_conflicts(model: Transformer) -> Iterator[Conflict]:
    width = model.width
    if width % model.heads:
        valid = f"a divisor of model.width={width}: {join_numbers(divisors(width))}"
        yield Conflict(
            path="model.heads",
            valid=valid,
            got=model.heads,
        )
    elif model.positions is Positions.rotary and (width // model.heads) % 2:
        reason = "model.positions=rotary rotates pairs of units"
        possible = [heads for heads in divisors(width) if width % (2 * heads) == 0]
        if possible:
            yield Conflict(
                path="model.heads",
                valid=f"one of {join_numbers(possible)}",
                got=model.heads,
                reason=reason,
            )
        else:
            yield Conflict(
                path="model.width",
                valid="even",
                got=width,
                reason=reason,
            )


def _init_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    convolutions = (ModelKind.cnn, ModelKind.resnet_cifar)
    if config.init.kind is InitKind.delta_orthogonal and model not in convolutions:
        reason = "init=delta_orthogonal is defined only for model=cnn and model=resnet_cifar"
        yield Conflict(
            path="init",
            valid="orthogonal",
            got="delta_orthogonal",
            reason=reason,
        )
    for name in ("sigma_b", "bias_mean"):
        value = getattr(config.init, name)
        if value and not config.model.bias:
            yield Conflict(
                path=f"init.{name}",
                valid="0",
                got=value,
                reason="with model.bias=false there are no biases",
            )


STREAM_SKIPS = (SkipKind.hyper, SkipKind.mhc)
PRECONDITIONED = (
    OptimizerKind.adam,
    OptimizerKind.adamw,
    OptimizerKind.rmsprop,
    OptimizerKind.adagrad,
)
RESNET_LAYERS = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}  # by depth
ROUNDED_PRECISIONS = (
    PrecisionKind.float8_e4m3,
    PrecisionKind.float8_e5m2,
    PrecisionKind.float4_e2m1,
)
PER_LAYER = (ModelKind.mlp, *CONVOLUTIONAL, ModelKind.transformer)


@dataclass(frozen=True)
class InspectionScope:
    """The models that an inspection is defined for.

    Attributes:
        models: their kinds.
        reason: why it is not defined for others, as the end of a sentence about the inspection.
    """

    models: tuple[ModelKind, ...]
    reason: str


SCOPES = {  # other inspections are defined for every model
    "jacobian_spectrum": InspectionScope(
        models=(ModelKind.mlp,),
        reason="compares layers of one shape",
    ),
    "gradient_correlation": InspectionScope(
        models=(ModelKind.mlp, ModelKind.cnn, ModelKind.transformer),
        reason="compares layers of one shape",
    ),
    "balance": InspectionScope(
        models=(ModelKind.mlp,),
        reason="compares the weights into and out of units between two layers",
    ),
    "feature_maps": InspectionScope(
        models=(ModelKind.mlp, ModelKind.cnn),
        reason="compares layers of one shape",
    ),
    "probes": InspectionScope(
        models=(ModelKind.mlp, ModelKind.cnn, ModelKind.transformer),
        reason="reads layers of one shape",
    ),
    "representations": InspectionScope(
        models=(ModelKind.mlp, ModelKind.cnn, ModelKind.transformer),
        reason="reads layers of one shape",
    ),
    "tokens": InspectionScope(
        models=(ModelKind.transformer,),
        reason="compares the positions of a text",
    ),
    "coordinate_change": InspectionScope(
        models=PER_LAYER,
        reason="compares layers that do not share weights",
    ),
    "scale_derivative": InspectionScope(
        models=PER_LAYER,
        reason="compares layers that do not share weights",
    ),
    "scale_invariance": InspectionScope(
        models=PER_LAYER,
        reason="compares layers that do not share weights",
    ),
}


def _inspection_conflicts(config: Config) -> Iterator[Conflict]:
    model = config.model.kind
    skip = config.skip.kind
    for name in config.measure.inspect:
        scope = SCOPES.get(name)
        if scope and model not in scope.models:
            yield _choice_conflict("model", scope.models, model, f"{name} {scope.reason}")
        if name == "balance" and skip is not SkipKind.none:
            reason = "balance needs units whose weights all come from one layer"
            yield Conflict(
                path="skip",
                valid="none",
                got=skip.name,
                reason=reason,
            )
        if name == "stream_mixing" and skip not in STREAM_SKIPS:
            reason = f"{name} needs several residual streams"
            yield _choice_conflict("skip", STREAM_SKIPS, skip, reason)
        if name == "masked_outputs":
            yield from _mask_conflicts(config)
        precision = config.precision.kind
        if name == "quantization_noise" and precision not in ROUNDED_PRECISIONS:
            reason = f"{name} compares gradients with those of a format that rounds them"
            yield _choice_conflict("precision", ROUNDED_PRECISIONS, precision, reason)
        optimizer = config.optimizer.kind
        if name == "preconditioned_sharpness" and optimizer not in PRECONDITIONED:
            reason = f"{name} needs an optimizer that divides by the size of gradients"
            yield _choice_conflict("optimizer", PRECONDITIONED, optimizer, reason)


def _stop_conflicts(config: Config) -> Iterator[Conflict]:
    """``diagnose.stop`` needs the gauges from which its findings follow."""
    stop = config.diagnose.stop
    level = config.measure.level
    if stop and level is Level.off:
        yield Conflict(
            path="diagnose.stop",
            valid="left out",
            got=", ".join(stop),
            reason="measure=off leaves nothing to judge",
        )
    if "collapsed" in stop and level is not Level.full:
        yield Conflict(
            path="measure",
            valid="full",
            got=level.name,
            reason="diagnose.stop=[collapsed] needs the gauge signal_variation",
        )


def _choice_conflict(
    group: str,
    valid: Iterable[enum.Enum],
    chosen: enum.Enum,
    reason: str,
) -> Conflict:
    """A group whose option must be one of some others."""
    names = " or ".join(kind.name for kind in valid)
    return Conflict(path=group, valid=names, got=chosen.name, reason=reason)


def _mask_conflicts(config: Config) -> Iterator[Conflict]:
    """``masked_outputs`` averages over what a training step draws at random for one example."""
    has_dropout = getattr(config.model, "dropout", 0) > 0
    if not has_dropout and config.skip.kind not in (SkipKind.dropout, SkipKind.stochastic_depth):
        yield Conflict(
            path="model.dropout",
            valid="above 0",
            got=getattr(config.model, "dropout", 0),
            reason="masked_outputs needs dropout or a random skip connection",
        )
    if config.norm.kind is NormKind.batch:
        yield Conflict(
            path="norm",
            valid="another norm",
            got=config.norm.kind.name,
            reason="masked_outputs looks at one example",
        )


def divisors(number: int) -> list[int]:
    """The divisors of a number, in ascending order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def join_numbers(numbers: Sequence[int]) -> str:
    """The numbers, separated by commas."""
    return ", ".join(str(number) for number in numbers)
