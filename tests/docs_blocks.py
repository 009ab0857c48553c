"""The code blocks of the README and of the pages in docs/."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from .composing import compose

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: the page that it is on, relative to the root of the repository.
        language: what it is declared as.
        title: the file that it is the content of, or nothing.
        text: its content.
    """

    page: str
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class CommandLine:
    """A line that the reader types.

    Attributes:
        page: the page that it is on.
        text: the line without its comment.
    """

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of the command, without variables and programs that only start it."""
        words = shlex.split(self.text)
        while re.match(r"[A-Z_]+=", words[0]) or words[0] in ("srun", "--ntasks=8"):
            words = words[1:]
        return [words[0].removeprefix(".venv/bin/"), *words[1:]]


def read_blocks(pages: Sequence[Path] = PAGES) -> list[Block]:
    """Every code block of the pages."""
    blocks = []
    for page in pages:
        for _, language, rest, text in FENCE.findall(page.read_text()):
            title = re.search(r'title="([^"]+)"', rest)
            block = Block(
                page=page.relative_to(ROOT).as_posix(),
                language=language,
                title=title.group(1) if title else "",
                text=text,
            )
            blocks.append(block)
    return blocks


BLOCKS = read_blocks()


def read_command_lines(blocks: Sequence[Block] = BLOCKS) -> list[CommandLine]:
    """Every line of the blocks of shell commands."""
    lines = []
    for block in blocks:
        if block.language != "bash":
            continue
        for line in block.text.splitlines():
            command = " ".join(shlex.quote(word) for word in shlex.split(line, comments=True))
            if command:
                lines.append(CommandLine(block.page, command))
    return lines


COMMAND_LINES = read_command_lines()


def compose_training(line: CommandLine) -> DictConfig:
    """The configuration that a line ``fathom train …`` gives, of a sweep that of its first job."""
    overrides = [_first_value(word) for word in line.words[2:] if _is_override(word)]
    return compose(*overrides)


def _is_override(word: str) -> bool:
    """Whether Hydra takes the word as a setting. Optuna's sweeper need not be installed."""
    is_optuna = word.startswith(("hydra/sweeper=optuna", "hydra.sweeper."))
    return "=" in word and not is_optuna and not word.startswith("-")


def _first_value(word: str) -> str:
    """The setting of the first job of a sweep."""
    path, _, value = word.partition("=")
    inside_call = re.fullmatch(r"(?:tag\(\w+,)?(?:range|interval)\(([^,]+),.*\)", value)
    if inside_call:
        return f"{path}={inside_call.group(1)}"
    if value.startswith("["):
        return word
    return f"{path}={value.split(',')[0]}"
