"""The verdict on a run: its findings, and a sentence that follows from them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.diagnosis import findings
from research.diagnosis.advice import Situation, advise
from research.diagnosis.depth import BAND as BAND
from research.diagnosis.depth import DepthHistory, Fit, make_history
from research.diagnosis.depth import fit as fit
from research.diagnosis.depth import log_profile as log_profile
from research.diagnosis.depth import skipped_layers as skipped_layers
from research.diagnosis.depth_findings import DepthContext, describe_healthy, find_depth_findings
from research.diagnosis.findings import HEALTHY, Finding, Remedy, Severity, order_findings
from research.diagnosis.observed import Divergence, Observed, Settings, Theory
from research.diagnosis.training_findings import (
    RunContext,
    describe_divergence,
    find_training_findings,
)
from research.diagnosis.underflow import find_format_findings, mean_lost

EXPLAINS_PLATEAU = (
    findings.INPUTS,
    findings.FORWARD_UNDERFLOW,
    findings.UNDERFLOW,
    findings.OVERFLOW,
    findings.DEAD,
    findings.VANISHING,
    findings.EXPLODING,
    findings.COLLAPSED,
)

CAUSES = {  # of a consequence, the kinds that lead to it
    findings.DIVERGED: (findings.INPUTS, findings.EXPLODING),
    findings.DEAD: (findings.INPUTS,),
    findings.NOT_LEARNING: (*EXPLAINS_PLATEAU, findings.DEAD_UNITS, findings.SATURATED),
    findings.SLOW_DIVERGENCE: (findings.DEAD, findings.VANISHING, findings.EXPLODING),
}
# What the updates do to a network while its loss is lost.
AFTER_LOSS = (findings.DEAD, findings.VANISHING, findings.EXPLODING)
LONGEST_DELAY = 0.1  # of the run, by which a cause may be seen after its consequence
FIRST_HALF = 0.5  # of the run, in which begins what explains that nothing was ever learned
CONSEQUENCES = {
    findings.DIVERGED: "so diverged",
    findings.NOT_LEARNING: "so not learning",
    findings.SLOW_DIVERGENCE: "so slow divergence",
    findings.DEAD: "so dead",
    findings.VANISHING: "so vanishing",
    findings.EXPLODING: "so exploding",
}

STATES_LOSS = (  # kinds whose sentence says what the loss does
    findings.DIVERGED,
    findings.NOT_LEARNING,
    findings.SLOW_DIVERGENCE,
    findings.SPIKE,
    findings.OVERFITTING,
    findings.FITTED,
)


@dataclass(frozen=True)
class Verdict:
    """The judgement of a run.

    Attributes:
        kind: that of the first severe finding, or ``healthy``.
        since_step: the step from which on it holds.
        end: the gradient over depth in the last steps; None where there is none.
        initial: the same at the first step.
        theory: what theory predicts at initialisation.
        sentence: the verdict in words.
        layer: where the first number that is not finite was.
        lost_fraction: the share of the backward signal that the number format removed.
        findings: everything that was found, the most severe first.
    """

    kind: str
    since_step: int | None
    end: Fit | None
    initial: Fit | None
    theory: Theory | None
    sentence: str
    layer: int | None = None
    lost_fraction: float | None = None
    findings: Sequence[Finding] = ()

    def as_dict(self) -> dict:
        """The entries of ``run.json``: the fit of the last steps, and ``initial`` of the first."""
        end: dict[str, Any] = dataclasses.asdict(self.end) if self.end else {}
        initial = dataclasses.asdict(self.initial) if self.initial else None
        first_layer = end.get("first_layer") if self.layer is None else self.layer
        return end | {
            "kind": self.kind,
            "since_step": self.since_step,
            "first_layer": first_layer,
            "lost_fraction": self.lost_fraction,
            "theory": self.theory.factor if self.theory else None,
            "theory_margin": self.theory.margin if self.theory else None,
            "initial": initial,
            "sentence": self.sentence,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def judge(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    settings: Settings,
    theory: Theory | None = None,
    diverged: tuple | None = None,
    first_signal: int = 0,
    observed: Observed | None = None,
    with_advice: bool = True,
) -> Verdict:
    """Judges a run by ``signal_grad`` and by what else it measured.

    Args:
        steps: the measured steps [S], ascending.
        signal: ‖∂L/∂h_l‖ [S, N+1] at these steps.
        settings: the run's configuration by dotted path, on which the advice depends.
        theory: what theory predicts at initialisation, if there is a prediction.
        diverged: the members of a ``Divergence``: the step, layer and quantity of the first number
            that is not finite.
        first_signal: the first l whose gradient is judged. It is 1 where h_0 is a constant, from
            which nothing can learn.
        observed: the other measurements.
        with_advice: whether findings say what to try, which takes some milliseconds.
    """
    observed = observed or Observed()
    divergence = Divergence(*diverged) if diverged else None
    steps = np.asarray(steps)
    is_before = steps < divergence.step if divergence else np.ones(len(steps), bool)
    signals = range(first_signal, np.shape(signal)[1])
    history = make_history(steps[is_before], np.asarray(signal)[is_before], signals)
    ctx = DepthContext(history, observed, theory)
    run = RunContext(observed, settings, divergence)
    found = find_depth_findings(ctx)
    found += find_training_findings(run)
    if divergence is None:
        found += find_format_findings(observed, settings)
    found = drop_consequences(found)
    divergence_finding = describe_divergence(run)
    if divergence_finding is not None:
        found = [divergence_finding, *as_warnings(found)]
    if with_advice:
        ordered = _with_first_cause(ctx, order_findings(found))
        found = add_advice(ordered, settings, history, divergence)
    return with_loss(make_verdict(ctx, found, divergence), observed)


def as_warnings(found: Sequence[Finding]) -> list[Finding]:
    """The findings, none of them severe: those of a run before it diverged, say."""
    warnings = []
    for finding in found:
        if finding.is_severe:
            finding = dataclasses.replace(finding, severity=Severity.warning)
        warnings.append(finding)
    return warnings


def drop_consequences(found: Sequence[Finding]) -> list[Finding]:
    """Leaves out findings that another one explains.

    A gradient that the number format removed looks dead or vanishing, and a signal that underflows
    on its way forward leaves no gradient.
    """
    kinds = {finding.kind for finding in found if finding.severity is not Severity.note}
    dropped: set[findings.Kind] = set()
    if findings.FORWARD_UNDERFLOW in kinds:
        dropped |= {findings.UNDERFLOW, findings.DEAD}
    if findings.UNDERFLOW in kinds:
        dropped |= {findings.DEAD, findings.HIDDEN_GRADIENT}
    return [finding for finding in found if finding.kind not in dropped]


def add_advice(
    found: Sequence[Finding],
    settings: Settings,
    history: DepthHistory,
    divergence: Divergence | None,
) -> list[Finding]:
    """The findings with what to try.

    Where another finding explains that a run does not learn, the advice is that finding's. What a
    finding advises does not contradict what those before it advise.

    Args:
        found: the findings, the most severe first.
        settings: the run's configuration by dotted path.
        history: the gradient over depth.
        divergence: where numbers stopped being finite.
    """
    lasting = [finding for finding in found if finding.last_step is None]
    kinds = [finding.kind for finding in lasting if finding.severity is not Severity.note]
    names = [kind.name for kind in kinds]
    start = history.step(0) if len(history) else 0
    initial_names = [finding.kind.name for finding in lasting if finding.first_step == start]
    is_explained = any(kind in EXPLAINS_PLATEAU for kind in kinds)
    advised = []
    remedies: list[Remedy] = []
    for finding in found:
        if finding.kind is findings.NOT_LEARNING and is_explained:
            advised.append(finding)
            continue
        situation = Situation(
            finding=finding,
            settings=settings,
            start=0 if finding.kind is findings.DIVERGED else start,
            initial_others=initial_names,
            others=[name for name in names if name != finding.kind.name],
            quantity=divergence.quantity if divergence else "",
            was_healthy=history.is_healthy_first(),
        )
        with_remedies = advise(situation, remedies)
        remedies.extend(with_remedies.remedies)
        advised.append(with_remedies)
    return advised


def make_verdict(
    ctx: DepthContext,
    found: Sequence[Finding],
    divergence: Divergence | None = None,
) -> Verdict:
    """The verdict that follows from findings.

    Args:
        ctx: the gradient over depth and the other measurements.
        found: the findings in any order.
        divergence: where numbers stopped being finite.
    """
    ordered = _with_first_cause(ctx, order_findings(found))
    severe = [finding for finding in ordered if finding.is_severe]
    headline = severe[0] if severe else None
    history = ctx.history
    kind = headline.kind.name if headline else HEALTHY
    return Verdict(
        kind=kind,
        since_step=headline.first_step if headline else _healthy_since(history),
        end=None if divergence else history.fit_last(),
        initial=history.fit_first(),
        theory=ctx.theory,
        sentence=_sentence(ctx, headline, ordered),
        layer=divergence.layer if divergence else None,
        lost_fraction=mean_lost(ctx.observed),
        findings=ordered,
    )


def _with_first_cause(ctx: DepthContext, ordered: list[Finding]) -> list[Finding]:
    """The findings, with a slow divergence in front of severe ones that came well after it."""
    severe = [finding for finding in ordered if finding.is_severe]
    delay = LONGEST_DELAY * ctx.observed.num_steps
    for finding in severe:
        if finding.kind is not findings.SLOW_DIVERGENCE:
            continue
        others = [other.first_step or 0 for other in severe if other is not finding]
        if others and min(others) > (finding.first_step or 0) + delay:
            return [finding, *(other for other in ordered if other is not finding)]
    return ordered


def _healthy_since(history: DepthHistory) -> int | None:
    """The first step after the last one at which the gradient over depth was not healthy."""
    if not len(history):
        return None
    first = 0
    for state in history.states:
        for episode in history.episodes(state):
            if not episode.is_open:
                first = max(first, episode.last + 1)
    return history.step(first)


def _sentence(
    ctx: DepthContext,
    headline: Finding | None,
    ordered: Sequence[Finding],
) -> str:
    """The headline with its advice, then the other findings, each in a sentence."""
    parts = []
    leading = []
    if headline is None:
        parts.append(_healthy_sentence(ctx, ordered))
    else:
        leading = _cause_and_consequence(ctx, headline, ordered)
        parts.append(_headline_sentence(leading))
        parts.extend(finding.advice for finding in _advised_first(headline, leading))
    is_advised = headline is not None
    harmless = [finding for finding in ordered if _is_harmless(finding)]
    if headline is None and harmless and harmless[0].advice:
        parts.append(harmless[0].advice)
        is_advised = True
    for finding in ordered:
        explains_health = finding.kind is findings.FITTED or _is_harmless(finding)
        if finding in leading or (explains_health and headline is None):
            continue
        parts.append(finding.sentence)
        if finding.advice and not is_advised:
            parts.append(finding.advice)
            is_advised = True
    return " ".join(parts)


def _cause_and_consequence(
    ctx: DepthContext,
    headline: Finding,
    ordered: Sequence[Finding],
) -> list[Finding]:
    """The headline alone, or a cause with its consequence where the headline is one of them."""
    if headline.kind is findings.SLOW_DIVERGENCE and headline is ordered[0]:
        later = [each for each in ordered if each.kind in AFTER_LOSS and each.is_severe]
        return [headline, *later[:1]]
    for consequence in ordered:
        for cause in ordered:
            has_headline = headline in (cause, consequence)
            if has_headline and _is_cause(cause, consequence, ctx.observed.num_steps):
                return [cause, consequence]
    return [headline]


def _is_cause(
    cause: Finding,
    consequence: Finding,
    num_steps: int,
) -> bool:
    """Whether a finding that lasts leads to another one that does.

    Args:
        cause: the possible cause.
        consequence: its possible consequence.
        num_steps: the steps of the run.
    """
    causes = CAUSES.get(consequence.kind, ())
    if cause.kind not in causes:
        return False
    never_learned = consequence.kind is findings.NOT_LEARNING and not consequence.first_step
    share = FIRST_HALF if never_learned else LONGEST_DELAY
    latest = (consequence.first_step or 0) + share * num_steps
    is_lasting = cause.last_step is None and consequence.last_step is None
    return is_lasting and (cause.first_step or 0) <= latest


def _headline_sentence(leading: Sequence[Finding]) -> str:
    """``Vanishing: …``, or ``Vanishing, so not learning: …`` for a cause and its consequence."""
    first, *others = leading
    titles = [first.kind.title, *(CONSEQUENCES[other.kind] for other in others)]
    texts = [first.text, *(_as_sentence(other.text) for other in others)]
    return f"{', '.join(titles)}: {' '.join(texts)}"


def _advised_first(headline: Finding, leading: Sequence[Finding]) -> list[Finding]:
    """Whose advice follows the headline: its own, else that of the cause or the consequence."""
    for finding in (headline, *leading):
        if finding.advice:
            return [finding]
    return []


def with_loss(verdict: Verdict, observed: Observed) -> Verdict:
    """The verdict with the training loss of the last steps, if it is known and no finding says it.

    Args:
        verdict: the verdict.
        observed: the measurements that it is about.
    """
    is_stated = any(each.kind in STATES_LOSS or _is_harmless(each) for each in verdict.findings)
    is_known = observed.chance_loss is not None and observed.end_of("train_loss") is not None
    if is_stated or not is_known:
        return verdict
    sentence = f"{verdict.sentence} {_as_sentence(_losses_in_words(observed))}."
    return dataclasses.replace(verdict, sentence=sentence)


def _healthy_sentence(ctx: DepthContext, ordered: Sequence[Finding]) -> str:
    """Why the run is healthy: its gradient over depth, or that it learns all the same."""
    is_outside = any(_is_open_drift(finding) for finding in ordered)
    for finding in ordered:
        if finding.kind is findings.FITTED and is_outside:
            return f"Healthy: {finding.text} Gradients are small for that reason."
    progress = _describe_progress(ctx, ordered)
    gradient = describe_healthy(ctx)
    if progress:
        start = f"Healthy: {progress}"
    elif gradient:
        start = f"Healthy gradient: {gradient}"
    elif not len(ctx.history):
        start = "Healthy: nothing was measured."
    else:
        start = "Healthy: nothing is wrong."
    fitted = [finding.text for finding in ordered if finding.kind is findings.FITTED]
    return " ".join([start, *map(_as_sentence, fitted)])


def _describe_progress(ctx: DepthContext, ordered: Sequence[Finding]) -> str:
    """That a run learns although its gradient explodes over depth; empty where it does not."""
    for finding in ordered:
        if _is_harmless(finding):
            return f"{_losses_in_words(ctx.observed)}, although {finding.text}"
    return ""


def _losses_in_words(observed: Observed) -> str:
    """The mean training loss of the last steps, and that of chance or of the first step."""
    num_steps = observed.steps_at_end("train_loss")
    end = f"{observed.end_of('train_loss'):#.3g}"
    if observed.chance_loss is None:
        mean = f", the mean of the last {num_steps} steps" if num_steps > 1 else ""
        return f"the training loss fell from {observed.first_loss:#.3g} to {end}{mean}"
    period = f"over the last {num_steps} steps " if num_steps > 1 else ""
    chance = f"{observed.chance_loss:#.3g}"
    if not observed.least_loss:
        return f"{period}the training loss is {end}, and that of chance {chance}"
    return (
        f"{period}the training loss is {end}, that of chance {chance}, and the least possible with "
        f"label smoothing {observed.least_loss:#.3g}"
    )


def _is_harmless(finding: Finding) -> bool:
    """Whether a gradient that explodes until the end does not keep the run from learning."""
    is_lasting = finding.kind is findings.EXPLODING and finding.last_step is None
    return is_lasting and not finding.is_severe


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _is_open_drift(finding: Finding) -> bool:
    """Whether the gradient over depth leaves the band at the end."""
    drifts = (findings.DEAD, findings.VANISHING, findings.EXPLODING)
    return finding.kind in drifts and finding.last_step is None


def find_stop(verdict: Verdict, kinds: Sequence[str]) -> Finding | None:
    """The first severe finding of some kinds, which ends a run; None without one.

    Args:
        verdict: the verdict on the running run.
        kinds: the names of the kinds.
    """
    for finding in verdict.findings:
        if finding.is_severe and finding.kind.name in kinds:
            return finding
    return None
