"""What to try, from the run's own settings: never what the run has already."""

from collections.abc import Mapping

Settings = Mapping[str, object]


def advice(kind: str, settings: Settings, since: int | None = None) -> str:
    """One or two sentences for a verdict's kind, with a leading space; nothing where there is nothing to try.

    What holds ``since`` step 0 may have held before any step was made.
    """
    why, candidates = (_advice_at_start(kind, settings) if since == 0 else None) or _advice(
        kind, settings
    )
    fresh = [candidate for candidate in candidates if not _is_set(candidate, settings)]
    if not fresh:
        return ""
    tried = f"{', '.join(fresh[:-1])} or {fresh[-1]}" if len(fresh) > 1 else fresh[0]
    return f" {why}: try {tried}."


def _is_set(candidate: str, settings: Settings) -> bool:
    path, _, value = candidate.partition("=")
    return bool(value) and str(settings.get(path, settings.get(f"{path}.kind"))) in (
        value,
        f"{value}.0",
    )


def _advice(kind: str, settings: Settings) -> tuple[str, list[str]]:
    plain = settings["skip.kind"] == "none"
    depth = f"Depth {settings['model.depth']} without skip connections"
    rate = f"a smaller optimizer.learning_rate (now {settings['optimizer.learning_rate']:g})"
    match kind:
        case "vanishing" if plain and settings["activation.kind"] == "sigmoid":
            return f"{depth}, and a sigmoid's slope is at most 1/4", [
                "skip=inv_sqrt_depth",
                "activation=tanh",
            ]
        case "vanishing" if plain:
            return depth, ["skip=inv_sqrt_depth", "init=orthogonal", "a larger init.gain"]
        case "vanishing":
            return "The shortcut loses what it is multiplied by below 1", [
                "skip.shortcut_scale=1",
                "skip=identity",
            ]
        case "exploding" if plain and settings["norm.kind"] == "batch":
            return (
                f"{depth}, and batch norm multiplies the squared gradient by 1.2 to 1.5 a layer",
                ["skip=identity"],
            )
        case "exploding" if plain:
            return depth, ["skip=inv_sqrt_depth", "a smaller init.gain"]
        case "exploding":
            return "Unscaled branches add up with depth", ["skip=inv_sqrt_depth", "skip=rezero"]
        case "dead":
            return "Units are silent for every input", [rate, "activation=elu"]
        case "underflow":
            return "The number format has no room below", _wider(settings)
        case "diverged" if _overflows(settings):
            format_ = str(settings["precision.kind"]).removeprefix("mixed_")
            why = f"The step was too large, or the gradient beyond the greatest {format_} number"
            return why, ["precision.loss_scaling=dynamic", rate, "optimizer.clip=global_norm"]
        case "diverged":
            return "The step was too large", [rate, "optimizer.clip=global_norm"]
    return "", []


def _advice_at_start(kind: str, settings: Settings) -> tuple[str, list[str]] | None:
    """Where it differs from that of a run which made steps."""
    match kind:
        case "dead" if settings["init.kind"] == "zeros":
            return "All weights begin at 0", ["init=he"]
        case "diverged" if not _overflows(settings):
            return "The weights begin too large", [
                f"a smaller init.gain (now {settings['init.gain']:g})"
            ]
    return None


def _wider(settings: Settings) -> list[str]:
    scaling = ["precision.loss_scaling=dynamic"]
    if not str(settings["precision.kind"]).startswith("float8"):
        return [*scaling, "precision=mixed_bfloat16"]
    return (
        ["precision=float8_e5m2"]
        if settings["precision.tensor_scale"]
        else ["precision.tensor_scale=true", *scaling]
    )


def _overflows(settings: Settings) -> bool:
    """Whether the format's greatest number is small, and nothing keeps the gradient below it."""
    narrow = str(settings["precision.kind"]) in (
        "float16",
        "mixed_float16",
        "float8_e4m3",
        "float8_e5m2",
    )
    return narrow and settings["precision.loss_scaling"] != "dynamic"
