"""Quotes texts for Hydra's grammar of overrides, and overrides for the shell."""

import re
import shlex
from pathlib import PurePath


def quote_text(text: str) -> str:
    """A text in double quotes, which Hydra reads as it is.

    >>> quote_text("a, b")
    '"a, b"'
    """
    # Hydra reads a backslash as it is, unless a quote follows.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    end = re.search(r"\\*$", text)
    return f'"{escaped}{end.group() if end else ""}"'


def quote_override(
    path: str,
    value: str,
    *,
    is_list: bool = False,
) -> str:
    """A setting and its text as they are typed in a shell, quoted for the shell and for Hydra.

    Several files, or words without blanks and slashes, with commas between them are quoted one by
    one, and so are the items of a list.

    Args:
        path: the setting.
        value: its text, without quotes.
        is_list: whether the setting takes a list, which stands in brackets.

    >>> print(quote_override("data.path", "my data, new/x.npz"))
    'data.path="my data, new/x.npz"'
    >>> print(quote_override("data.path", "ä.npz,ö.npz"))
    'data.path="ä.npz","ö.npz"'
    >>> print(quote_override("tags", "[ä, b]", is_list=True))
    'tags=["ä","b"]'
    """
    if is_list:
        is_in_brackets = value.startswith("[") and value.endswith("]")
        items = value[1:-1] if is_in_brackets else value
        quoted = [_quote_unquoted(item.strip()) for item in items.split(",")]
        return shlex.quote(f"{path}=[{','.join(quoted)}]")
    texts = value.split(",")
    are_files = all(map(_has_suffix, texts))
    are_words = not any(re.search(r"[\s/]", text) for text in texts)
    if not are_files and not are_words:
        texts = [value]
    return shlex.quote(f"{path}={','.join(map(_quote_unquoted, texts))}")


def _quote_unquoted(text: str) -> str:
    """A text in double quotes, unless it has quotes around it."""
    is_quoted = re.fullmatch(r"(['\"]).*\1", text)
    return text if is_quoted else quote_text(text)


def is_like_path(text: str) -> bool:
    """Whether a text seems to be the path of a file or a folder: it has a slash or a suffix.

    >>> is_like_path("photos/new"), is_like_path("mine.npz"), is_like_path("a,b")
    (True, True, False)
    """
    return "/" in text or _has_suffix(text)


def _has_suffix(text: str) -> bool:
    return bool(re.fullmatch(r"\.[A-Za-z]\w*", PurePath(text).suffix))
