"""Suggests the name that a user may have meant."""

import difflib
from collections.abc import Iterable

ALIASES = {  # other names for options and settings
    "residual": "identity",
    "shortcut": "identity",
    "plain": "none",
    "xavier": "glorot",
    "kaiming": "he",
    "batchnorm": "batch",
    "layernorm": "layer",
    "swish": "silu",
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "lstm": "rnn",
    "gru": "rnn",
    "gpt": "transformer",
    "vit": "transformer",
    "rope": "rotary",
    "sgdm": "momentum",
    "l2": "mse",
    "before": "pre",
    "after": "post",
    "lr": "learning_rate",
    "wd": "weight_decay",
    "alpha": "branch_scale",
    "layers": "depth",
    "hidden": "width",
}


def format_suggestion(word: str, words: Iterable[str]) -> str:
    """``; did you mean X?`` where a name, or another word for it, is similar, otherwise nothing."""
    name = find_nearest(word, words)
    return f"; did you mean {name}?" if name else ""


def find_nearest(word: str, words: Iterable[str]) -> str | None:
    """The name most similar to ``word``, or that ``word`` is another word for."""
    names = {name: name for name in words}
    for alias, name in ALIASES.items():
        if name in names:
            names[alias] = name
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    if not close:
        close = [name for name in names if word and name.startswith(word)]
    return names[close[0]] if close else None
