"""Words of messages: lists and numbers as they are written in a sentence."""

import shlex
from collections.abc import Sequence


def join_words(words: Sequence[str], conjunction: str) -> str:
    """The words with commas, and a conjunction before the last."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def pluralize(count: int, noun: str) -> str:
    """A number of things.

    >>> pluralize(1, "run"), pluralize(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_steps(start: int, end: int) -> str:
    """The steps from one to another, both included.

    >>> format_steps(3, 5), format_steps(3, 3)
    ('steps 3–5', 'step 3')
    """
    return f"step {start}" if start == end else f"steps {start}–{end}"


def shell_command(*words: str) -> str:
    """The command ``fathom`` with these words, quoted where a shell would change them.

    >>> shell_command("train", "-m", "seed=range(0,3)", "skip=none,identity")
    "fathom train -m 'seed=range(0,3)' skip=none,identity"
    """
    return shlex.join(["fathom", *words])
