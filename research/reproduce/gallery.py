"""The gallery ``experiments/README.md``, made from the pages of the experiments.

``python -m research.reproduce.gallery`` writes it. First it writes into each page how long the
experiment takes, from the experiment's file.
"""

import re
from pathlib import Path

from research.config.hydra_config import resource_dir
from research.reproduce.experiments import Duration, experiment_names, read_duration

HEAD = """# Reproductions

Each experiment has a folder. Its page shows the question, the figure and the claims as measured;
`claims.py` tests the claims and `figure.py` draws the figure. `conf/experiment/NAME.yaml` says what
is trained. `fathom reproduce NAME` repeats all of it. `python -m research.reproduce.gallery` makes
this page from the pages of the experiments.
"""


def make_gallery(root: Path) -> str:
    """The text of the gallery of the experiments below ``root``.

    A table says how many claims of each experiment hold. Each question follows with its figure.
    """
    overview = ["| experiment | question | claims that hold |", "|---|---|---|"]
    entries = []
    for page in sorted(root.glob("*/README.md")):
        folder = page.parent
        if not (folder / "claims.py").exists():
            continue
        text = page.read_text(encoding="utf-8")
        question = _find_question(text)
        link = f"[`{folder.name}`]({folder.name}/README.md)"
        overview.append(f"| {link} | {question} | {_count_held_claims(text)} |")
        entries += _entry(folder.name, text)
    return "\n".join([HEAD, *overview, "", *entries])


def _entry(name: str, text: str) -> list[str]:
    title = text.splitlines()[0].removeprefix("# ")
    picture = f"![{title}]({name}/figure.png)"
    return [f"## {title}", "", _find_question(text), "", f"[{picture}]({name}/README.md)", ""]


def _find_question(text: str) -> str:
    found = re.search(r"\*\*Question\.\*\*(.*?)\n\n", text, re.S)
    if not found:
        title = text.splitlines()[0]
        raise ValueError(f"{title} has no paragraph that begins with **Question.**")
    return " ".join(found[1].split())


def _count_held_claims(text: str) -> str:
    verdicts = re.findall(r"^\|.*\| (yes|NO) \|$", text, re.M)
    return f"{verdicts.count('yes')} of {len(verdicts)}"


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
