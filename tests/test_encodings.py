"""No text is read or written in the encoding of the user's locale."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("research", "hydra_plugins", "experiments", "docs")
TEXT_METHODS = ("read_text", "write_text")
OPENERS = ("open", "fdopen")
# Whose ``open`` opens no text by default.
NOT_FILES = ("os", "opener", "Image", "gzip", "tarfile", "zipfile")
SUBPROCESSES = ("run", "Popen", "check_output", "check_call", "call")


def find_calls(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def called_name(call):
    """The name of the function, and what it is an attribute of: ``("open", "Image")``."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr, ast.unparse(function.value)
    return ast.unparse(function), ""


def is_binary(call):
    literals = [word.value for word in call.args if isinstance(word, ast.Constant)]
    for keyword in call.keywords:
        if keyword.arg == "mode" and isinstance(keyword.value, ast.Constant):
            literals.append(keyword.value.value)
    modes = [literal for literal in literals if isinstance(literal, str)]
    return any("b" in mode and len(mode) <= 3 for mode in modes)


def lacks_encoding(call):
    """Whether a call reads or writes text and leaves the encoding to the locale."""
    name, owner = called_name(call)
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in TEXT_METHODS:
        return True
    if name in OPENERS and (owner not in NOT_FILES or name == "fdopen"):
        return not is_binary(call)
    return name in SUBPROCESSES and owner == "subprocess" and "text" in keywords


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_names_its_encoding(folder):
    found = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        for call in find_calls(file):
            if lacks_encoding(call):
                place = file.relative_to(ROOT)
                found.append(f"{place}:{call.lineno}: {ast.unparse(call)}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("file.read_text()", True),
        ("file.read_text(encoding='utf-8')", False),
        ("open(name)", True),
        ("open(name, 'rb')", False),
        ("name.open(mode='rb')", False),
        ("os.fdopen(number, 'w')", True),
        ("Image.open(name)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words)", False),
    ],
)
def test_the_search_finds_what_it_should(code, is_found):
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert lacks_encoding(call) == is_found
