"""Texts quoted for Hydra's grammar and for the shell."""

import re
import shlex

import pytest

from research.config.errors import describe_several_values
from research.config.override_checks import parse_overrides
from research.config.quoting import is_like_path, quote_override, quote_text

TEXTS = [
    "my data, new=1/ä ö (1)/x=1,y.npz",
    "p/a,b/x.npz",
    "it's/x.npz",
    'say "hi"/x.npz',
    "p/[old]/{a}/x.npz",
    "data (1)/run#2.npz",
    "C:\\data\\",
    "2020–2021/Anna’s/x.npz",
    "a seed=1/x.npz",
]


@pytest.mark.parametrize("text", [*TEXTS, "1e3", "null", " a "])
def test_a_quoted_text_is_read_as_it_is(text):
    (override,) = parse_overrides([f"notes={quote_text(text)}"])
    assert override.value() == text


@pytest.mark.parametrize("path", ["data.path", "notes", "hydra.run.dir"])
@pytest.mark.parametrize("text", [text for text in TEXTS if text != "C:\\data\\"])
def test_what_is_advised_for_a_path_works_when_it_is_copied(path, text):
    word = f"{path}={text}"
    try:
        parse_overrides([word])
        message = describe_several_values(word, "fathom train")
    except ValueError as error:
        message = str(error)
    advised = re.search(r"(?:for Hydra|is quoted): (.*)$", message)
    assert advised, message
    (typed,) = shlex.split(advised[1])
    (override,) = parse_overrides([typed])
    assert override.key_or_group == path
    assert override.value() == text


@pytest.mark.parametrize(
    ("value", "is_list", "typed"),
    [
        ("ä.npz,ö.npz", False, '\'data.path="ä.npz","ö.npz"\''),
        ("ä,ö", False, '\'data.path="ä","ö"\''),
        ("p/ä,p/ö", False, "'data.path=\"p/ä,p/ö\"'"),
        ("[ä, b]", True, '\'data.path=["ä","b"]\''),
        ("ä", True, "'data.path=[\"ä\"]'"),
    ],
)
def test_several_values_and_items_of_a_list_are_quoted_one_by_one(value, is_list, typed):
    assert quote_override("data.path", value, is_list=is_list) == typed


def test_a_slash_or_a_suffix_makes_a_path():
    assert is_like_path("photos/new")
    assert is_like_path("mine.npz")
    assert not is_like_path("0.5")
    assert not is_like_path("a,b")
