"""The gallery ``experiments/README.md`` and the course ``experiments/lessons.md``.

``python -m research.reproduce.gallery`` makes both from the pages of the experiments. First it
writes into each page how long the experiment takes, from the experiment's file.
"""

import re
from pathlib import Path

from research.config.hydra_config import resource_dir
from research.reproduce.experiments import (
    Duration,
    about,
    course_names,
    experiment_names,
    lesson_names,
    read_duration,
)

HEAD = """# Reproductions

Each experiment has a folder. Its page shows the question, the figure and the claims as measured;
`claims.py` tests the claims and `figure.py` draws the figure. `conf/experiment/NAME.yaml` says what
is trained. `fathom reproduce NAME` repeats all of it. `python -m research.reproduce.gallery` makes
this page from the pages of the experiments.
"""

REFUTED_HEAD = """## Claims that do not hold

A claim that fails stays, with its number; thresholds are not moved after the runs. The reasons are
those of the experiments' pages.
"""

REASON = "What does not hold"  # the heading of a paragraph

COURSE_HEAD = """# A course in an afternoon

What a first course on deep learning teaches, each idea with one picture, claims that a sceptic can
check, and something to try. Read the stops in order. Each of them says an idea, a command and what
to look at in the figure; its page has the claims as measured, the theory and a command to try.
"""


def make_gallery(root: Path) -> str:
    """The text of the gallery of the experiments below ``root``.

    A table says how many claims of each experiment hold, and another one has those that do not,
    with the reasons. Each question follows with its figure.
    """
    overview = ["| experiment | question | claims that hold |", "|---|---|---|"]
    refuted = ["| experiment | claim | expected | measured |", "|---|---|---|---|"]
    reasons = []
    entries = []
    for page in sorted(root.glob("*/README.md")):
        folder = page.parent
        if not (folder / "claims.py").exists():
            continue
        text = page.read_text(encoding="utf-8")
        question = _find_question(text)
        link = f"[`{folder.name}`]({folder.name}/README.md)"
        overview.append(f"| {link} | {question} | {_count_held_claims(text)} |")
        for cells in _find_refuted_claims(text):
            refuted.append(f"| {link} | {cells} |")
        reason = _find_paragraph(text, REASON)
        if reason:
            reasons.append(f"- {link}: {reason}")
        entries += _entry(folder.name, text)
    parts = [HEAD, *overview, "", REFUTED_HEAD, *refuted, "", *reasons, "", *entries]
    return "\n".join(parts)


def _entry(name: str, text: str) -> list[str]:
    title = text.splitlines()[0].removeprefix("# ")
    picture = f"![{title}]({name}/figure.png)"
    return [f"## {title}", "", _find_question(text), "", f"[{picture}]({name}/README.md)", ""]


def make_course(root: Path) -> str:
    """The text of the course through the lessons below ``root``, in teaching order.

    Raises:
        ValueError: a page lacks a paragraph that the course shows.
    """
    parts = [COURSE_HEAD, _course_duration()]
    for number, name in enumerate(course_names(), start=1):
        text = (root / name / "README.md").read_text(encoding="utf-8")
        parts.append(_stop(number, name, text))
    return "\n".join(parts)


def _course_duration() -> str:
    durations = [read_duration(name) for name in lesson_names()]
    seconds = sum(duration.seconds for duration in durations if duration)
    machine = next(duration.machine for duration in durations if duration)
    return (
        f"`fathom reproduce lessons` trains all lessons, {about(seconds)} on {machine}. "
        "The other stops take longer or belong to a paper, and have their own command.\n"
    )


def _stop(
    number: int,
    name: str,
    text: str,
) -> str:
    """A stop of the course: its idea, or its question where it has no idea, and its figure."""
    title = text.splitlines()[0].removeprefix("# ")
    idea = _find_paragraph(text, "Idea") or _find_question(text)
    lines = [
        f"## {number}. {title}",
        "",
        idea,
        "",
        "```",
        f"fathom reproduce {name}",
        "```",
        "",
        f"[![{title}]({name}/figure.png)]({name}/README.md)",
        "",
    ]
    look = _find_paragraph(text, "What to look at")
    if look:
        lines += [f"**What to look at.** {look}", ""]
    lines += [f"[{_page_words(text)}]({name}/README.md)", ""]
    return "\n".join(lines)


def _page_words(text: str) -> str:
    """What else the page of an experiment has: its claims, the theory, something to try."""
    held = _count_held_claims(text)
    extra = ", and something to try" if "**Try it.**" in text else ""
    return f"The claims ({held} hold), the theory{extra}"


def _find_question(text: str) -> str:
    question = _find_paragraph(text, "Question")
    if not question:
        title = text.splitlines()[0]
        raise ValueError(f"{title} has no paragraph that begins with **Question.**")
    return question


def _find_paragraph(text: str, heading: str) -> str:
    """The paragraph of a page that begins with a word in bold, in one line; empty without it."""
    found = re.search(rf"^\*\*{heading}\.\*\*(.*?)\n\n", text, re.S | re.M)
    return " ".join(found[1].split()) if found else ""


def _count_held_claims(text: str) -> str:
    """How many claims of a page hold; those of its larger configuration do not count."""
    main_text, _, _ = text.partition("**Larger.**")
    verdicts = re.findall(r"^\|.*\| (yes|NO) \|$", main_text, re.M)
    return f"{verdicts.count('yes')} of {len(verdicts)}"


def _find_refuted_claims(text: str) -> list[str]:
    """Claim, expected and measured of each claim of a page that does not hold, as cells."""
    return re.findall(r"^\| ([^|]* \| [^|]* \| [^|]*) \|.* NO \|$", text, re.M)


def set_duration(page: str, duration: Duration) -> str:
    """The page of an experiment, with the duration in its paragraph ``**Duration.**``."""
    paragraph = f"**Duration.** All runs take {duration}."
    return re.sub(r"^\*\*Duration\.\*\*.*$", paragraph, page, flags=re.M)


def update_durations(root: Path) -> None:
    """Writes into the pages below ``root`` how long their experiments take."""
    for name in experiment_names():
        page = root / name / "README.md"
        duration = read_duration(name)
        if duration and page.exists():
            text = page.read_text(encoding="utf-8")
            page.write_text(set_duration(text, duration), encoding="utf-8")


if __name__ == "__main__":
    folder = resource_dir("experiments")
    update_durations(folder)
    (folder / "README.md").write_text(make_gallery(folder), encoding="utf-8")
    (folder / "lessons.md").write_text(make_course(folder), encoding="utf-8")
