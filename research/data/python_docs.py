"""The documentation topics of the Python interpreter as text, which need no network."""

import functools
import platform

import numpy as np

from research.config.data_options import TextData
from research.data.dataset import Dataset, DatasetInfo, LabeledArrays
from research.data.text import (
    LabeledTexts,
    Vocabulary,
    encode_texts,
    make_text_dataset,
    make_vocabulary,
    make_windows,
)

MIN_PARAGRAPHS = 20  # of a topic, to be a class
MIN_CHARACTERS = 20  # of a paragraph, to be an example


def describe(data: TextData) -> DatasetInfo:
    """Windows for a language model; with ``data.label=topic``, paragraphs to classify by topic.

    Raises:
        ValueError: There is no such label, or a split is too short for one window.
    """
    if data.label not in (None, "topic"):
        raise ValueError(
            "data.label must be topic for python_docs, or null for a language model, "
            f"got {data.label}"
        )
    if data.label:
        return _describe_paragraphs(data)
    return _describe_windows(data)


def _describe_paragraphs(data: TextData) -> DatasetInfo:
    sizes = {}
    for split, paragraphs in labeled_paragraphs().items():
        sizes[split] = len(paragraphs.texts)
    return DatasetInfo(
        splits=sizes,
        shape=(data.length,),
        text=True,
    )


def _describe_windows(data: TextData) -> DatasetInfo:
    num_targets = {}
    for split, tokens in split_tokens(data.unit.name).items():
        num_targets[split] = len(tokens) - 1
    longest = min(num_targets.values())
    if data.length > longest:
        raise ValueError(
            f"data.length must be ≤ {longest}, the held-out text of python_docs, got {data.length}"
        )
    sizes = {}
    for split, count in num_targets.items():
        sizes[split] = count // data.length
    return DatasetInfo(
        splits=sizes,
        shape=(data.length,),
        text=True,
        language=True,
    )


def load_python_docs(data: TextData) -> Dataset:
    """Consecutive windows of ``data.length`` tokens; the target of a position is its next token.

    With ``data.label=topic``, padded paragraphs with the number of their topic. The vocabulary
    comes from the whole training text, whatever ``data.split`` and ``data.limit`` select.
    """
    info = describe(data)
    unit = data.unit.name
    if data.label:
        paragraphs = labeled_paragraphs()["train"]
        vocabulary = make_vocabulary(paragraphs.texts, unit, padded=True)
        classes = len(_topic_paragraphs())
    else:
        vocabulary = text_vocabulary(unit)
        classes = len(vocabulary)

    def read(split: str) -> LabeledArrays:
        if not data.label:
            return make_windows(split_tokens(unit)[split], data.length)
        paragraphs = labeled_paragraphs()[split]
        source = f"data=python_docs, {split}"
        return encode_texts(paragraphs, vocabulary, data.length, source=source)

    return make_text_dataset(
        data,
        info,
        vocabulary,
        read,
        name="python_docs",
        version=platform.python_version(),
        classes=classes,
        shuffle=bool(data.label),
    )


@functools.cache
def split_text() -> dict[str, str]:
    """All topics in alphabetical order as one text, whose last tenth is the test split.

    Topics quote one another. A paragraph is kept only where it occurs first, so that the test
    split is new text.
    """
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = dict.fromkeys(whole.split("\n\n"))
    text = "\n\n".join(paragraphs)
    end = len(text) - len(text) // 10
    return {"train": text[:end], "test": text[end:]}


@functools.cache
def text_vocabulary(unit: str) -> Vocabulary:
    """The vocabulary of the training text."""
    return make_vocabulary([split_text()["train"]], unit)


@functools.cache
def split_tokens(unit: str) -> dict[str, np.ndarray]:
    """The tokens [n] of each split; every run of a sweep asks for their number."""
    vocabulary = text_vocabulary(unit)
    splits = {}
    for split, text in split_text().items():
        tokens = vocabulary.encode(text)
        tokens.setflags(write=False)
        splits[split] = tokens
    return splits


@functools.cache
def labeled_paragraphs() -> dict[str, LabeledTexts]:
    """Paragraphs with the numbers of their topics. Every tenth of a topic is for testing."""
    texts: dict[str, list[str]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for topic, paragraphs in enumerate(_topic_paragraphs()):
        for position, paragraph in enumerate(paragraphs):
            split = "test" if position % 10 == 9 else "train"
            texts[split].append(paragraph)
            labels[split].append(topic)
    splits = {}
    for split in ("train", "test"):
        splits[split] = LabeledTexts(texts[split], np.array(labels[split], np.int32))
    return splits


@functools.cache
def _topic_paragraphs() -> list[list[str]]:
    """For each topic that is a class, its long paragraphs that no earlier topic has."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    classes = []
    for name in sorted(topics):
        paragraphs = []
        for paragraph in topics[name].split("\n\n"):
            if paragraph not in seen and len(paragraph) >= MIN_CHARACTERS:
                paragraphs.append(paragraph)
            seen.add(paragraph)
        if len(paragraphs) >= MIN_PARAGRAPHS:
            classes.append(paragraphs)
    return classes
