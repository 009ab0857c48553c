"""What to try, depending on the run's settings; never what the run already uses."""

from collections.abc import Mapping
from dataclasses import dataclass

Settings = Mapping[str, object]
NARROW_RANGE = ("float16", "mixed_float16", "float8_e4m3", "float8_e5m2")


@dataclass(frozen=True)
class Advice:
    """The likely reason, and what to try: settings such as ``init=he``, or a phrase."""

    reason: str
    candidates: list[str]


def advice(
    kind: str,
    settings: Settings,
    since: int | None = None,
) -> str:
    """One sentence of advice for a verdict, with a leading space.

    It is empty where there is nothing to try.

    Args:
        kind: the verdict's kind.
        settings: the run's configuration by dotted path.
        since: the step from which on the verdict holds. At step 0 no step was made, so the cause is
            the initialisation.
    """
    found = None
    if since == 0:
        found = _initial_advice(kind, settings)
    if found is None:
        found = _advice(kind, settings)
    if found is None:
        return ""
    candidates = [text for text in found.candidates if not _is_set(text, settings)]
    if not candidates:
        return ""
    return f" {found.reason}: try {_join(candidates)}."


def _join(candidates: list[str]) -> str:
    *others, last = candidates
    if not others:
        return last
    return f"{', '.join(others)} or {last}"


def _is_set(candidate: str, settings: Settings) -> bool:
    """Whether the run already has the setting ``path=value``; a phrase is never set."""
    path, _, value = candidate.partition("=")
    if not value:
        return False
    option = settings.get(f"{path}.kind")
    current = str(settings.get(path, option))
    return current in (value, f"{value}.0")


def _initial_advice(kind: str, settings: Settings) -> Advice | None:
    """Advice about the initialisation; None where it is the same as for any other step."""
    if kind == "dead" and settings["init.kind"] == "zeros":
        return Advice("All weights are initialised to 0", ["init=he"])
    if kind == "diverged" and not _can_overflow(settings):
        return Advice("The initial weights are too large", _smaller_initial_weights(settings))
    return None


def _smaller_initial_weights(settings: Settings) -> list[str]:
    for path in ("init.gain", "init.sigma_w"):
        if path in settings:
            return [f"a smaller {path} (now {settings[path]:g})"]
    return []


def _advice(kind: str, settings: Settings) -> Advice | None:
    match kind:
        case "vanishing":
            return _advise_vanishing(settings)
        case "exploding":
            return _advise_exploding(settings)
        case "dead":
            candidates = [_smaller_learning_rate(settings), "activation=elu"]
            return Advice("Units are silent for every input", candidates)
        case "underflow":
            reason = "The gradient is too small for the number format"
            return Advice(reason, _formats_with_more_range(settings))
        case "diverged":
            return _advise_diverged(settings)
    return None


def _advise_vanishing(settings: Settings) -> Advice:
    if settings["skip.kind"] == "none":
        reason = _depth_without_skips(settings)
        if settings["activation.kind"] == "sigmoid":
            reason = f"{reason}, and a sigmoid's slope is at most 1/4"
            return Advice(reason, ["skip=inv_sqrt_depth", "activation=tanh"])
        candidates = ["skip=inv_sqrt_depth", "init=orthogonal", "a larger init.gain"]
        return Advice(reason, candidates)
    candidates = ["skip=identity"]
    if settings["skip.kind"] == "scaled":
        candidates.insert(0, "skip.shortcut_scale=1")
    return Advice("The shortcut is multiplied by a factor below 1 in each layer", candidates)


def _advise_exploding(settings: Settings) -> Advice:
    if settings["skip.kind"] != "none":
        reason = "Unscaled branches add up with depth"
        return Advice(reason, ["skip=inv_sqrt_depth", "skip=rezero"])
    reason = _depth_without_skips(settings)
    if settings["norm.kind"] == "batch":
        growth = "batch norm multiplies the squared gradient by 1.2 to 1.5 a layer"
        return Advice(f"{reason}, and {growth}", ["skip=identity"])
    return Advice(reason, ["skip=inv_sqrt_depth", "a smaller init.gain"])


def _advise_diverged(settings: Settings) -> Advice:
    candidates = [_smaller_learning_rate(settings), "optimizer.clip=global_norm"]
    if not _can_overflow(settings):
        return Advice("The step was too large", candidates)
    format_ = str(settings["precision.kind"]).removeprefix("mixed_")
    reason = f"The step was too large, or the gradient exceeded the largest {format_} number"
    return Advice(reason, ["precision.loss_scaling=dynamic", *candidates])


def _depth_without_skips(settings: Settings) -> str:
    return f"Depth {settings['model.depth']} without skip connections"


def _smaller_learning_rate(settings: Settings) -> str:
    return f"a smaller optimizer.learning_rate (now {settings['optimizer.learning_rate']:g})"


def _formats_with_more_range(settings: Settings) -> list[str]:
    """What gives a small gradient more room before it underflows."""
    scaling = "precision.loss_scaling=dynamic"
    if not str(settings["precision.kind"]).startswith("float8"):
        return [scaling, "precision=mixed_bfloat16"]
    if settings.get("precision.tensor_scale"):
        return ["precision=float8_e5m2"]
    return ["precision.tensor_scale=true", scaling]


def _can_overflow(settings: Settings) -> bool:
    """Whether gradients can exceed the format's largest number and no loss scaling avoids it."""
    has_narrow_range = str(settings["precision.kind"]) in NARROW_RANGE
    return has_narrow_range and settings.get("precision.loss_scaling") != "dynamic"
