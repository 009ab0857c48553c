"""The interpreter's own documentation topics as text: in every Python, no network."""

import functools
import platform

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Dataset, Known, chosen
from research.data.text import Vocabulary, make_vocabulary, windows

FEWEST = 20  # paragraphs of a topic that is a class
SHORTEST = 20  # characters of a paragraph that is an example


def describe(data: Data) -> Known:
    """Windows of the next-token task, or with ``data.label=topic`` paragraphs whose topic is to be told.

    Raises:
        ValueError: there is no such label, or a split is too short for one window.
    """
    if data.label not in (None, "topic"):
        raise ValueError(
            f"data.label must be topic for python_docs, or null for a language model, got {data.label}"
        )
    if data.label:
        return Known(
            {name: len(texts) for name, (texts, _) in _paragraphs().items()},
            (data.length,),
            text=True,
        )
    targets = {
        name: len(_vocabulary(data.unit.name).encode(text)) - 1 for name, text in _texts().items()
    }
    if data.length > min(targets.values()):
        raise ValueError(
            f"data.length must be ≤ {min(targets.values())}, the held-out text of python_docs, got {data.length}"
        )
    splits = {name: count // data.length for name, count in targets.items()}
    return Known(splits, (data.length,), text=True, language=True)


def load_python_docs(data: Data) -> Dataset:
    """Windows of ``data.length`` tokens, one after the other, with the next token at every position as target.

    With ``data.label=topic`` padded paragraphs and the number of their topic. The vocabulary is that of the whole
    training text, whatever ``data.split`` and ``data.limit`` leave of it.
    """
    known = describe(data)
    if data.label:
        vocabulary = make_vocabulary(_paragraphs()["train"][0], data.unit.name, padded=True)
        classes = len(_topics())
    else:
        vocabulary = _vocabulary(data.unit.name)
        classes = len(vocabulary)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        if not data.label:
            return windows(vocabulary.encode(_texts()[split]), data.length)
        texts, topics = _paragraphs()[split]
        return vocabulary.padded_rows(texts, data.length), np.array(topics, np.int32)

    columns = chosen(data, known.splits, read, classes)
    return Dataset(
        "python_docs", platform.python_version(), data.split, *columns, known.shape, classes, 0.0, 1.0,
        *vocabulary.described(),
    )  # fmt: skip


@functools.cache
def _texts() -> dict[str, str]:
    """All topics in the order of their names, the last tenth of the characters held out.

    Topics quote one another: of a paragraph that occurs more than once the first place is kept, so that what is held
    out is new.
    """
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(paragraphs))
    start = len(text) - len(text) // 10
    return {"train": text[:start], "test": text[start:]}


@functools.cache
def _vocabulary(unit: str) -> Vocabulary:
    return make_vocabulary([_texts()["train"]], unit)


@functools.cache
def _topics() -> dict[str, list[str]]:
    """The longer paragraphs of each topic that no earlier one holds, in the order of the names."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for name in sorted(topics):
        found[name] = [
            part for part in dict.fromkeys(topics[name].split("\n\n")) if part not in seen
        ]
        seen |= set(found[name])
    long = {name: [part for part in own if len(part) >= SHORTEST] for name, own in found.items()}
    return {name: own for name, own in long.items() if len(own) >= FEWEST}


@functools.cache
def _paragraphs() -> dict[str, tuple[list[str], list[int]]]:
    """Paragraphs and the numbers of their topics; every tenth of a topic is held out."""
    splits: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for number, own in enumerate(_topics().values()):
        for place, text in enumerate(own):
            texts, numbers = splits["test" if place % 10 == 9 else "train"]
            texts.append(text)
            numbers.append(number)
    return splits
