"""Which options go together: every combination of model, skip, norm and data that makes no sense has its reason."""

import math
from collections.abc import Iterator

from research.config.schema import Config, Precision
from research.data.dataset import DatasetInfo
from research.data.sources import describe
from research.models.plan import BLOCKS, IMAGES

HELD_IN_MEMORY = ("digits", "noise", "arrays")
CELLS_WITH_GATES = ("gru", "lstm")


def check_compatibility(config: Config) -> None:
    """Raises ValueError with what would be valid, for the first combination that makes no sense."""
    for path, valid, got, why in _broken(config):
        raise ValueError(f"{path} must be {valid}{f' ({why})' if why else ''}, got {got}")


def _broken(config: Config) -> Iterator[tuple[str, str, object, str]]:
    """(path, what would be valid, what it is, why) of everything that is wrong."""
    yield from _skips(config)
    yield from _norms(config)
    yield from _depths(config)
    yield from _shapes(config)
    yield from _precisions(config)
    yield from _inspections(config)
    if config.init.kind.name == "delta_orthogonal" and config.model.kind.name not in (
        "cnn",
        "resnet_cifar",
    ):
        yield (
            "init",
            "orthogonal",
            "delta_orthogonal",
            "delta_orthogonal is for model=cnn and model=resnet_cifar",
        )


def _depths(config: Config) -> Iterator[tuple[str, str, object, str]]:
    """What needs no look at the data."""
    model = config.model
    match model.kind.name:
        case "resnet_cifar" if model.depth < 8 or (model.depth - 2) % 6:
            below = max(8, 6 * ((model.depth - 2) // 6) + 2)
            yield (
                "model.depth",
                f"6n+2 for resnet_cifar: {below} or {below + 6}, say",
                model.depth,
                "",
            )
        case "resnet" if model.depth not in BLOCKS:
            yield "model.depth", f"one of {_listed(list(BLOCKS))} for resnet", model.depth, ""
        case "transformer" if model.width % model.heads:
            yield (
                "model.heads",
                f"a divisor of model.width={model.width}: {_divisors(model.width)}",
                model.heads,
                "",
            )
        case "transformer" if model.positions.name == "rotary" and (model.width // model.heads) % 2:
            why = "positions=rotary turns pairs of units"
            heads = [h for h in _dividing(model.width) if model.width % (2 * h) == 0]
            if heads:
                yield "model.heads", f"one of {_listed(heads)}", model.heads, why
            else:
                yield "model.width", "even", model.width, why
        case "rnn" if model.dropout:
            why = "it stands in front of a branch's last weights, and a cell has none"
            yield "model.dropout", "0", model.dropout, why


def _shapes(config: Config) -> Iterator[tuple[str, str, object, str]]:
    model = config.model
    kind = config.model.kind.name
    name = config.data.name.name
    data = config.data
    known = describe(data)
    shape = known.shape
    text = known.text
    yield from _targets(config, known)
    if text and kind not in ("transformer", "rnn"):
        yield "model", "transformer or rnn", kind, f"{name} holds text"
    if model.tied and not (
        known.language and kind == "transformer" and data.word_vectors.name == "learned"
    ):
        yield (
            "model.tied",
            "false",
            "true",
            "only a transformer that predicts the next token has vectors to share",
        )
    if text and config.train.input_noise:
        yield (
            "train.input_noise",
            "0",
            config.train.input_noise,
            f"the tokens of {name} are no numbers",
        )
    if text and data.scaling.name != "jointly":
        yield "data.scaling", "jointly", data.scaling.name, f"the tokens of {name} are no numbers"
    if kind in IMAGES and len(shape) not in (2, 3) and name == "noise":
        yield "data.shape", "height, width and channels", list(shape), f"{kind} reads images"
    elif kind in IMAGES and len(shape) not in (2, 3):
        yield "model", "mlp, transformer or rnn", kind, f"{name} holds no images"
    match kind:
        case "rnn" if text and model.depth != shape[0]:
            yield (
                "model.depth",
                f"data.length={shape[0]}",
                model.depth,
                "an rnn has one step for each token",
            )
        case "rnn" if not text and math.prod(shape) % model.depth:
            numbers = math.prod(shape)
            why = f"an example's {numbers} numbers are read in as many equal pieces"
            yield "model.depth", f"a divisor of {numbers}: {_divisors(numbers)}", model.depth, why


def _targets(config: Config, known: DatasetInfo) -> Iterator[tuple[str, str, object, str]]:
    data = config.data
    name = config.data.name.name
    image = len(known.shape) == 3 and not known.text
    if known.is_regression and config.loss.kind.name != "mse":
        yield (
            "loss",
            "mse",
            config.loss.kind.name,
            f"the targets of {name} are numbers, not classes",
        )
    if known.is_regression and config.loss.label_smoothing:
        yield (
            "loss.label_smoothing",
            "0",
            config.loss.label_smoothing,
            f"the targets of {name} are numbers",
        )
    if data.label_noise and (known.is_regression or known.language):
        yield "data.label_noise", "0", data.label_noise, f"the targets of {name} are no classes"
    if (data.crop or data.flip) and not image:
        path = "data.crop" if data.crop else "data.flip"
        yield path, "left out", str(getattr(data, path[5:])).lower(), f"{name} holds no images"
    if data.resized_crop and (not image or name in HELD_IN_MEMORY):
        yield "data.resized_crop", "false", "true", f"{name} is read whole"


def _skips(config: Config) -> Iterator[tuple[str, str, object, str]]:
    model = config.model.kind.name
    skip = config.skip.kind.name
    norm = config.norm.kind.name
    cell = config.model.cell.name
    if model == "rnn" and cell in CELLS_WITH_GATES and skip != "none":
        yield "skip", "none", skip, f"a {cell} has gates of its own"
    shared = ("none", "identity", "scaled", "inv_sqrt_depth")
    if model == "rnn" and skip not in shared:
        yield "skip", f"one of {', '.join(shared)}", skip, "the steps of an rnn share one layer"
    if skip == "deepnorm" and model != "transformer":
        yield "model", "transformer", model, "skip=deepnorm is defined for one"
    if skip == "deepnorm" and norm not in ("layer", "rms"):
        yield "norm", "layer or rms", norm, "skip=deepnorm normalises behind the sum"
    if skip == "deepnorm" and config.norm.placement.name != "post":
        yield (
            "norm.placement",
            "post",
            config.norm.placement.name,
            "skip=deepnorm normalises behind the sum",
        )
    if skip == "fixup" and model not in ("mlp", *IMAGES):
        yield "skip", "rezero or deepnorm", skip, f"fixup is not defined for a {model}"
    if skip == "fixup" and norm != "none":
        yield "norm", "none", norm, "skip=fixup is an initialisation in place of one"
    if skip == "dense" and model not in ("mlp", "cnn"):
        yield "model", "mlp or cnn", model, "skip=dense needs a stream that can grow"
    if skip == "dense" and norm not in ("none", "batch"):
        yield (
            "norm",
            "none or batch",
            norm,
            "with skip=dense units that are not written yet must not count",
        )
    if skip == "dense" and norm == "batch" and config.norm.placement.name != "pre":
        yield (
            "norm.placement",
            "pre",
            config.norm.placement.name,
            "skip=dense normalises what a layer reads",
        )


def _norms(config: Config) -> Iterator[tuple[str, str, object, str]]:
    model = config.model.kind.name
    norm = config.norm.kind.name
    cell = config.model.cell.name
    if model == "rnn" and cell in CELLS_WITH_GATES and norm != "none":
        yield "norm", "none", norm, f"a {cell} keeps its state in bounds by itself"
    if norm == "batch" and model in ("transformer", "rnn"):
        yield (
            "norm",
            "none, layer, rms, group or dyt",
            norm,
            f"over the batch, positions of a {model} would mix",
        )
    if (
        norm == "batch"
        and model == "mlp"
        and config.train.batch_size == 1
        and config.optimizer.kind.name != "gd"
    ):
        yield (
            "train.batch_size",
            "≥ 2",
            1,
            "norm=batch takes from a single example its own mean: nothing is left",
        )
    if norm == "group" and config.model.width % config.norm.groups:
        width = config.model.width
        yield (
            "norm.groups",
            f"a divisor of model.width={width}: {_divisors(width)}",
            config.norm.groups,
            "",
        )
    if norm == "group" and config.norm.groups == config.model.width and model not in IMAGES:
        why = "norm=group takes from a single unit its own mean: nothing is left"
        yield "norm.groups", f"< model.width={config.model.width}", config.norm.groups, why


def _precisions(config: Config) -> Iterator[tuple[str, str, object, str]]:
    precision = config.precision
    kind = precision.kind.name
    scaling = precision.loss_scaling.name
    if precision.stochastic_rounding and kind != "bfloat16":
        yield (
            "precision.stochastic_rounding",
            "false",
            "true",
            f"{kind} stores no weights in bfloat16",
        )
    if precision.tensor_scale and not kind.startswith("float8"):
        yield "precision.tensor_scale", "false", "true", f"{kind} rounds nothing to 8 bits"
    if scaling == "none" and precision.loss_scale != Precision.loss_scale:
        why = f"without, precision.loss_scale={precision.loss_scale:.10g} has no effect"
        yield "precision.loss_scaling", "static or dynamic", scaling, why


_INSPECTED = {  # name: the models that it can be asked of, and why no others
    "jacobian_spectrum": (("mlp",), "compares layers of one shape"),
    "gradient_correlation": (("mlp", "cnn", "transformer"), "compares layers of one shape"),
    "balance": (("mlp",), "is of units between two layers"),
    **dict.fromkeys(
        ("scale_derivative", "scale_invariance"),
        (("mlp", *IMAGES, "transformer"), "compares layers with weights of their own"),
    ),
}


def _inspections(config: Config) -> Iterator[tuple[str, str, object, str]]:
    model = config.model.kind.name
    skip = config.skip.kind.name
    for name in config.measure.inspect:
        models, why = _INSPECTED.get(name, ((model,), ""))
        if model not in models:
            yield "model", " or ".join(models), model, f"{name} {why}"
        if name == "balance" and skip != "none":
            yield "skip", "none", skip, "balance is of units whose weights all enter from one layer"
        if name == "input_gradient" and describe(config.data).text:
            yield "data", "one of numbers", config.data.name.name, "a token has no gradient"


def _dividing(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _divisors(number: int) -> str:
    return _listed(_dividing(number))


def _listed(numbers: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
