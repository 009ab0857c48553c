"""The code blocks of the README and of the pages in docs/."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

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


def read_blocks() -> list[Block]:
    """Every code block of every page."""
    blocks = []
    for page in PAGES:
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


def read_command_lines() -> list[CommandLine]:
    """Every line of the blocks of shell commands."""
    lines = []
    for block in BLOCKS:
        if block.language != "bash":
            continue
        for line in block.text.splitlines():
            command = " ".join(shlex.quote(word) for word in shlex.split(line, comments=True))
            if command:
                lines.append(CommandLine(block.page, command))
    return lines


COMMAND_LINES = read_command_lines()
