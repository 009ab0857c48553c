"""The findings of a verdict in words, for tables in dashboards."""

from typing import Any

from research.records.runs import JsonObject

MAX_FINDINGS = 100
FINDING_COLUMNS = ("kind", "severity", "layers", "steps", "sentence", "advice")


def describe_findings(verdict: JsonObject | None) -> list[dict[str, str]]:
    """The findings of a verdict by ``FINDING_COLUMNS``; none in a record without any.

    Args:
        verdict: the verdict in ``run.json``.
    """
    findings = (verdict or {}).get("findings")
    if not isinstance(findings, list):
        return []
    described = []
    for finding in findings[:MAX_FINDINGS]:
        if isinstance(finding, dict):
            described.append(_describe(finding))
    return described


def _describe(finding: JsonObject) -> dict[str, str]:
    first_step = finding.get("first_step")
    steps = finding.get("steps")
    if steps is None and first_step is not None:
        steps = [first_step, finding.get("last_step")]
    places = finding.get("layers")
    ranges = places if isinstance(places, list) else [places]
    texts = {name: str(finding.get(name) or "") for name in FINDING_COLUMNS}
    texts["layers"] = ", ".join(_range_in_words(place) for place in ranges)
    texts["steps"] = _range_in_words(steps)
    return texts


def _range_in_words(value: Any) -> str:
    """A number, or the first and the last one of a range; a range without an end goes on.

    >>> _range_in_words([3, 7]), _range_in_words([5, 5]), _range_in_words([2, None])
    ('3–7', '5', 'from 2')
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        return "" if value is None else str(value)
    first, last = value
    if last is None:
        return f"from {first}"
    return str(first) if first == last else f"{first}–{last}"
