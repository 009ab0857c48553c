"""The verdict on a network whose architecture is unknown: one fit for each stack of equal layers.

The layers have names instead of numbers, and the advice names what helps in any network.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.diagnosis.verdict import (
    Fit,
    Verdict,
    classify,
    dead_sentence,
    factor_in_words,
    ratio_in_words,
)

SEVERITY = ("healthy", "vanishing", "exploding", "dead", "diverged")
LEAST_SIGNALS = 2  # what a fit needs

AT_START = {
    "vanishing": "add shortcuts around the layers (h + f(h)), normalise the layers' inputs, or "
    "enlarge the initial weights",
    "exploding": "scale the layers' branches down (h + f(h)/√depth), normalise the layers' inputs, "
    "or make the initial weights smaller",
    "dead": "check that the initial weights are not zero and that nothing stops the gradient",
    "diverged": "make the initial weights smaller, or use a number format with more range",
}
WHILE_TRAINING = {
    "vanishing": AT_START["vanishing"],
    "exploding": AT_START["exploding"] + ", or lower the learning rate",
    "dead": "lower the learning rate, or use an activation that is never flat, such as GELU or ELU",
    "diverged": "lower the learning rate, warm it up, or clip the norm of the gradient",
}


@dataclass(frozen=True)
class Stack:
    """A stack of equal layers.

    Attributes:
        name: what it is called.
        signals: the indices of its signals, in forward order.
    """

    name: str
    signals: tuple[int, ...]


@dataclass(frozen=True)
class StackVerdicts:
    """The verdicts on the stacks of a network. ``str`` is the verdict in words.

    Attributes:
        worst: the verdict on the network: that of the stack that is worst.
        by_stack: the verdict on each stack, by its name.
    """

    worst: Verdict
    by_stack: dict[str, Verdict]

    @property
    def kind(self) -> str:
        """``healthy``, ``vanishing``, ``exploding``, ``dead`` or ``diverged``."""
        return self.worst.kind

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.worst.sentence

    def __str__(self) -> str:
        return self.sentence

    def as_dict(self) -> dict:
        """The entries of ``run.json``."""
        stacks = {name: verdict.as_dict() for name, verdict in self.by_stack.items()}
        return self.worst.as_dict() | {"stacks": stacks}


def judge_stacks(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    stacks: Sequence[Stack],
    names: Sequence[str],
    diverged: tuple[int, int | None] | None = None,
) -> StackVerdicts | None:
    """Judges a network by the gradient that arrives at its signals.

    Args:
        steps: the measured steps [S], ascending.
        signal: ‖∂L/∂h‖ of each signal [S, N+1]; NaN for signals that are not measured.
        stacks: the stacks. One with fewer than two measured signals is left out; where all are,
            all signals are one stack.
        names: the names of the signals [N+1].
        diverged: the (step, signal) of the first value that is not finite.

    Returns:
        The verdicts; None where nothing was measured and nothing diverged.
    """
    if not len(steps) and not diverged:
        return None
    if diverged:
        verdict = _diverged_verdict(diverged, names)
        return StackVerdicts(verdict, {})
    is_measured = np.any(np.isfinite(signal), axis=0)
    verdicts = {}
    for stack in _usable_stacks(stacks, is_measured):
        verdicts[stack.name] = _judge_stack(steps, signal, stack, names)
    if not verdicts:
        return None
    worst = max(verdicts, key=lambda name: _severity(verdicts[name]))
    verdict = verdicts[worst]
    if len(verdicts) > 1:
        others = [f"{name}: {verdicts[name].kind}" for name in verdicts if name != worst]
        sentence = f"{verdict.sentence} ({worst}; {', '.join(others)})"
        verdict = dataclasses.replace(verdict, sentence=sentence)
    return StackVerdicts(verdict, verdicts)


def _usable_stacks(stacks: Sequence[Stack], is_measured: Any) -> list[Stack]:
    usable = []
    for stack in stacks:
        signals = tuple(index for index in stack.signals if is_measured[index])
        if len(signals) >= LEAST_SIGNALS:
            usable.append(Stack(stack.name, signals))
    if usable:
        return usable
    everything = tuple(np.flatnonzero(is_measured).tolist())
    return [Stack("all layers", everything)] if everything else []


def _judge_stack(
    steps: np.ndarray,
    signal: np.ndarray,
    stack: Stack,
    names: Sequence[str],
) -> Verdict:
    verdict = classify(steps, signal[:, stack.signals])
    names_of_stack = [names[index] for index in stack.signals]
    since = verdict.since_step
    if verdict.end is None:
        sentence = dead_sentence(since)
    else:
        sentence = _sentence(verdict, verdict.end, names_of_stack)
    sentence += advise(verdict.kind, since)
    end = _with_global_layer(verdict.end, stack)
    return dataclasses.replace(verdict, sentence=sentence, end=end)


def _with_global_layer(end: Fit | None, stack: Stack) -> Fit | None:
    """The fit with the index of a signal of the network instead of the stack."""
    if end is None or end.first_layer is None:
        return end
    return dataclasses.replace(end, first_layer=stack.signals[end.first_layer])


def _sentence(
    verdict: Verdict,
    end: Fit,
    names: Sequence[str],
) -> str:
    ratio = ratio_in_words(end.log10_ratio)
    parts = [f"{verdict.kind}: {names[0]} receives {ratio} the squared gradient of {names[-1]}"]
    if len(names) > LEAST_SIGNALS:
        parts.append(factor_in_words(end))
    if end.first_layer is not None:
        parts.append(f"outside the healthy band from {names[end.first_layer]} down")
    if verdict.since_step or verdict.kind != "healthy":
        parts.append(f"since step {verdict.since_step}")
    return "; ".join(parts) + "."


def _diverged_verdict(diverged: tuple[int, int | None], names: Sequence[str]) -> Verdict:
    step, signal = diverged
    where = "" if signal is None else f", first at {names[signal]}"
    sentence = f"diverged: the numbers stop being finite at step {step}{where}."
    return Verdict(
        kind="diverged",
        since_step=step,
        end=None,
        initial=None,
        theory=None,
        sentence=sentence + advise("diverged", step),
        layer=signal,
    )


def advise(kind: str, since: int | None) -> str:
    """One sentence of advice for a network of unknown architecture, with a leading space.

    Args:
        kind: the kind of the verdict.
        since: the step from which on it holds. At step 0 the cause is the initialisation.
    """
    candidates: Mapping[str, str] = AT_START if since == 0 else WHILE_TRAINING
    if kind not in candidates:
        return ""
    return f" Try: {candidates[kind]}."


def _severity(verdict: Verdict) -> tuple[int, float]:
    extent = 0.0
    if verdict.end is not None and math.isfinite(verdict.end.log10_ratio):
        extent = abs(verdict.end.log10_ratio)
    return SEVERITY.index(verdict.kind), extent
