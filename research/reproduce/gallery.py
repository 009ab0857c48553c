"""The gallery, ``experiments/README.md``: ``python -m research.reproduce.gallery`` makes it of the experiments' pages."""

import re
from collections.abc import Iterator
from pathlib import Path

from research.config.hydra_config import resource_dir

HEAD = """# Reproductions

One folder an experiment: its page with question, figure and claims as measured, `claims.py` and `figure.py`; what is
trained is `conf/experiment/NAME.yaml`. `fathom reproduce NAME` does it all again. This page is made of theirs:
`python -m research.reproduce.gallery`.
"""


def gallery(root: Path) -> str:
    """The page of the experiments below ``root``: how many claims hold, then each question with its figure."""
    pages = {page.parent.name: page.read_text() for page in sorted(root.glob("*/README.md"))}
    pages = {name: text for name, text in pages.items() if (root / name / "claims.py").exists()}
    return "\n".join(
        [HEAD, *_overview(pages), *(line for page in pages.items() for line in _entry(*page))]
    )


def _overview(pages: dict[str, str]) -> Iterator[str]:
    yield from ("| experiment | question | claims that hold |", "|---|---|---|")
    for name, text in pages.items():
        yield f"| [`{name}`]({name}/README.md) | {_question(text)} | {_holding(text)} |"
    yield ""


def _entry(name: str, text: str) -> Iterator[str]:
    title = text.splitlines()[0].removeprefix("# ")
    yield from (
        f"## {title}",
        "",
        _question(text),
        "",
        f"[![{title}]({name}/figure.png)]({name}/README.md)",
        "",
    )


def _question(text: str) -> str:
    found = re.search(r"\*\*Question\.\*\*(.*?)\n\n", text, re.S)
    if not found:
        raise ValueError(f"{text.splitlines()[0]} has no paragraph that begins with **Question.**")
    return " ".join(found[1].split())


def _holding(text: str) -> str:
    verdicts = re.findall(r"^\|.*\| (yes|NO) \|$", text, re.M)
    return f"{verdicts.count('yes')} of {len(verdicts)}"


if __name__ == "__main__":
    place = resource_dir("experiments")
    (place / "README.md").write_text(gallery(place))
