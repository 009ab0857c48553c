"""The verdict on a network whose architecture is unknown: one fit for each stack of equal layers.

The layers have names instead of numbers, and the advice names what helps in any network.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.diagnosis import findings
from research.diagnosis.advice import describe_risen_rate
from research.diagnosis.depth import make_history
from research.diagnosis.depth_findings import DepthContext, find_depth_findings
from research.diagnosis.findings import Finding, Remedy
from research.diagnosis.observed import Divergence, Observed
from research.diagnosis.training_findings import (
    RunContext,
    describe_divergence,
    find_training_findings,
)
from research.diagnosis.verdict import Verdict, as_warnings, make_verdict, with_loss

SEVERITY = ("healthy", "vanishing", "exploding", "dead", "diverged")
LEAST_SIGNALS = 2  # what a fit needs

SHORTCUTS = "shortcuts around the layers (h + f(h))"
SCALED_BRANCHES = "branches that are scaled down (h + f(h)/√depth)"
NORMS = "norms at the layers' inputs"
SMALLER_RATE = "a lower learning rate"
WARMUP = "a warm-up of the learning rate"
CLIPPING = "clipping the norm of the gradient"

AT_START = {
    "vanishing": (SHORTCUTS, NORMS, "larger initial weights"),
    "exploding": (SCALED_BRANCHES, NORMS, "smaller initial weights"),
    "dead": ("initial weights that are not zero", "a loss that no stop_gradient cuts off"),
    "diverged": ("smaller initial weights", "a number format with more range"),
}
WHILE_TRAINING = {
    "vanishing": (SMALLER_RATE, WARMUP, CLIPPING),
    "exploding": (SMALLER_RATE, CLIPPING, SCALED_BRANCHES),
    "dead": (SMALLER_RATE, "an activation that is never flat, such as GELU or ELU"),
    "diverged": (SMALLER_RATE, WARMUP, CLIPPING),
}
OUTSIDE_OF_LAYERS = ("targets that the loss can take", "labels below the number of outputs")
FALLING_RATE = "a schedule that lowers the learning rate"
LESS_DECAY = "less weight decay"
GATES = "gates as in a GRU or LSTM"
OVER_ITERATIONS = {
    "vanishing": (GATES, "an orthogonal recurrent matrix", "norms inside the loop"),
    "exploding": (CLIPPING, GATES, "a recurrent matrix whose norm is at most 1"),
}
SOURCE = "rules of thumb for networks of unknown architecture"


@dataclass(frozen=True)
class Stack:
    """A stack of equal layers.

    Attributes:
        name: what it is called.
        signals: the indices of its signals, in forward order.
        is_loop: whether its layers are the iterations of a loop, such as time.
        summed_iterations: the iterations of a recurrent loop over which its signals are sums.
    """

    name: str
    signals: tuple[int, ...]
    is_loop: bool = False
    summed_iterations: int = 1


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
        """``healthy``, ``vanishing``, ``exploding``, ``dead``, ``diverged`` or ``inputs``."""
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
    diverged: tuple | None = None,
    observed: Observed | None = None,
) -> StackVerdicts | None:
    """Judges a network by the gradient that arrives at its signals.

    Args:
        steps: the measured steps [S], ascending.
        signal: ‖∂L/∂h‖ of each signal [S, N+1]; NaN for signals that are not measured.
        stacks: the stacks. One with fewer than two measured signals is left out; where all are,
            all signals are one stack.
        names: the names of the layers [N].
        diverged: the members of a ``Divergence``: the first value that is not finite.
        observed: the losses of the loop, and its activations for a divergence.

    Returns:
        The verdicts; None where nothing was measured and nothing diverged.
    """
    if not len(steps) and not diverged:
        return None
    observed = observed or Observed()
    divergence = Divergence(*diverged) if diverged else None
    if divergence is not None:
        is_before = np.asarray(steps) < divergence.step
        steps = np.asarray(steps)[is_before]
        signal = signal[is_before]
    by_stack = _find_in_stacks(steps, signal, stacks, names, observed)
    verdicts = {}
    for name, each in by_stack.items():
        verdicts[name] = make_verdict(each.ctx, each.found)
    worst = max(verdicts, key=lambda name: _severity(verdicts[name]), default=None)
    inputs = _find_bad_inputs(divergence, None if worst is None else verdicts[worst], observed)
    if inputs is not None:
        before = None if worst is None else by_stack[worst]
        return StackVerdicts(_judge_inputs(inputs, divergence, before, names, observed), {})
    if divergence is not None:
        before = None if worst is None else by_stack[worst]
        return StackVerdicts(_judge_divergence(divergence, before, names, observed), {})
    if worst is None:
        return None
    verdict = _with_losses(by_stack[worst])
    if len(verdicts) > 1:
        others = [f"{name}: {verdicts[name].kind}" for name in verdicts if name != worst]
        sentence = f"{verdict.sentence} ({worst}; {', '.join(others)})"
        verdict = dataclasses.replace(verdict, sentence=sentence)
    return StackVerdicts(verdict, verdicts)


@dataclass(frozen=True)
class _StackFindings:
    """What the gradient over the depth of a stack shows."""

    ctx: DepthContext
    found: Sequence[Finding]


def _find_in_stacks(
    steps: np.ndarray,
    signal: np.ndarray,
    stacks: Sequence[Stack],
    names: Sequence[str],
    observed: Observed,
) -> dict[str, _StackFindings]:
    """The findings in each stack that can be judged, by its name."""
    is_measured = np.any(np.isfinite(signal), axis=0)
    by_stack = {}
    for stack in _usable_stacks(stacks, is_measured):
        by_stack[stack.name] = _find_in_stack(steps, signal, stack, names, observed)
    return by_stack


def _usable_stacks(stacks: Sequence[Stack], is_measured: Any) -> list[Stack]:
    usable = []
    for stack in stacks:
        signals = tuple(index for index in stack.signals if is_measured[index])
        if len(signals) >= LEAST_SIGNALS:
            usable.append(dataclasses.replace(stack, signals=signals))
    if usable:
        return usable
    everything = tuple(np.flatnonzero(is_measured).tolist())
    if not everything:
        return []
    iterations = max((stack.summed_iterations for stack in stacks), default=1)
    return [Stack("all layers", everything, summed_iterations=iterations)]


def _find_in_stack(
    steps: np.ndarray,
    signal: np.ndarray,
    stack: Stack,
    names: Sequence[str],
    observed: Observed,
) -> _StackFindings:
    history = make_history(steps, signal, stack.signals)
    unit = "iteration" if stack.is_loop else "layer"
    ctx = DepthContext(history, observed, names=names, unit=unit)
    start = history.step(0) if len(history) else 0
    found = [_advise(finding, start, stack.is_loop) for finding in find_depth_findings(ctx)]
    if stack.summed_iterations > 1:
        found.append(_describe_summed(stack))
    return _StackFindings(ctx, found)


def _describe_summed(stack: Stack) -> Finding:
    """That the gradient from one iteration of a loop to the next is not seen."""
    iterations = stack.summed_iterations
    return Finding(
        kind=findings.SUMMED,
        severity=findings.SUMMED.severity,
        text=f"the layers were measured as sums over all {iterations} iterations of a loop, so a "
        "gradient that fades or grows from one iteration to the next is not seen: "
        'state = fathom.tap(state, "time", per_iteration=True) inside the loop measures each.',
        evidence={"iterations": float(iterations)},
    )


def _with_losses(stack: _StackFindings) -> Verdict:
    """The verdict with what the losses show, as warnings: the loss of a loop may mean anything."""
    observed = stack.ctx.observed
    found = list(stack.found)
    for finding in as_warnings(find_training_findings(RunContext(observed, {}))):
        found.append(_advise_lost(finding))
    return with_loss(make_verdict(stack.ctx, found), observed)


def _advise_lost(finding: Finding) -> Finding:
    """The finding with what to try where a network learned, and lost that again."""
    evidence = finding.evidence
    if "best_step" not in evidence:
        return finding
    rise = describe_risen_rate(finding)
    rate = SMALLER_RATE
    if rise:
        rate = f"a learning rate that stays at {evidence['best_learning_rate']:.2g}"
    remedies = [Remedy(phrase, SOURCE) for phrase in (rate, FALLING_RATE, LESS_DECAY)]
    return dataclasses.replace(finding, cause=rise, remedies=remedies)


def _judge_divergence(
    diverged: Divergence,
    before: _StackFindings | None,
    names: Sequence[str],
    observed: Observed,
) -> Verdict:
    """The verdict on a loop that diverged, with what its worst stack showed before.

    Args:
        diverged: the first value that is not finite.
        before: the findings in the worst stack before it; None where nothing was measured.
        names: the names of the layers [N].
        observed: the losses and activations of the loop.
    """
    finding = describe_divergence(RunContext(observed, {}, diverged), names)
    assert finding is not None
    measured = np.asarray(observed.profiles.get("step", ()))
    if diverged.step == 0 and not diverged.quantity and 0 in measured:
        remedies = [Remedy(phrase, SOURCE) for phrase in OUTSIDE_OF_LAYERS]
        found = [dataclasses.replace(finding, remedies=remedies)]
    else:
        found = [_advise(finding, start=0, is_loop=False)]
    if before is None:
        num_signals = len(names) + 1
        empty = make_history(np.zeros(0, int), np.zeros((0, num_signals)))
        return make_verdict(DepthContext(empty, observed), found, diverged)
    return make_verdict(before.ctx, [*found, *as_warnings(before.found)], diverged)


def _find_bad_inputs(
    diverged: Divergence | None,
    verdict: Verdict | None,
    observed: Observed,
) -> Finding | None:
    """Arguments of the loss that explain why a loop diverged, or why its gradient is zero.

    An argument such as a mask may hold infinities that do no harm. So those alone count that come
    with the first value that is not finite.

    Args:
        diverged: the first value that is not finite.
        verdict: the verdict on the worst stack without them.
        observed: what was measured besides.
    """
    inputs = observed.bad_inputs
    if inputs is None:
        return None
    is_dead = diverged is None and verdict is not None and verdict.kind == findings.DEAD.name
    if inputs.largest == 0 and is_dead:
        problem = "all zero"
    elif not math.isfinite(inputs.largest) and diverged and diverged.step == inputs.step:
        problem = f"not all finite from step {inputs.step} on"
    else:
        return None
    return Finding(
        kind=findings.INPUTS,
        severity=findings.INPUTS.severity,
        text="the arguments of the loss other than its parameters, such as the batch, are "
        f"{problem}, which no change of the network helps.",
        first_step=inputs.step,
        evidence={"largest": inputs.largest},
    )


def _judge_inputs(
    inputs: Finding,
    diverged: Divergence | None,
    before: _StackFindings | None,
    names: Sequence[str],
    observed: Observed,
) -> Verdict:
    """The verdict on a loop with bad inputs, without advice on its network.

    Args:
        inputs: what is wrong with them.
        diverged: the first value that is not finite.
        before: the findings in the worst stack; None where nothing was measured.
        names: the names of the layers [N].
        observed: the losses and activations of the loop.
    """
    found = [inputs]
    divergence = describe_divergence(RunContext(observed, {}, diverged), names)
    if divergence is not None:
        found.append(divergence)
    elif before is not None:
        found += [dataclasses.replace(finding, remedies=()) for finding in before.found]
    empty = make_history(np.zeros(0, int), np.zeros((0, len(names) + 1)))
    ctx = DepthContext(empty, observed) if before is None else before.ctx
    return make_verdict(ctx, found, diverged)


def _advise(
    finding: Finding,
    start: int,
    is_loop: bool,
) -> Finding:
    """The finding with what to try in a network of unknown architecture.

    Args:
        finding: what was found.
        start: the first measured step. What holds from then on comes from the initialisation.
        is_loop: whether the layers are the iterations of a loop, which share their parameters.
    """
    is_initial = finding.first_step == start
    choices: Mapping[str, tuple[str, ...]] = AT_START if is_initial else WHILE_TRAINING
    if is_loop:
        choices = {**choices, **OVER_ITERATIONS}
    if finding.last_step is not None or finding.kind.name not in choices:
        return finding
    remedies = [Remedy(phrase, SOURCE) for phrase in choices[finding.kind.name]]
    return dataclasses.replace(finding, remedies=remedies)


def _severity(verdict: Verdict) -> tuple[int, float]:
    extent = 0.0
    if verdict.end is not None and math.isfinite(verdict.end.log10_ratio):
        extent = abs(verdict.end.log10_ratio)
    return SEVERITY.index(verdict.kind), extent
