"""Claims about what attention does to the words of a text, with shortcuts and without.

Their thresholds were set before the runs.
"""

from collections.abc import Sequence

import numpy as np

from research.data.python_docs import labeled_paragraphs
from research.records.queries import by_seed, final_by_seed, final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed, mean_interval

DONG = "Dong, Cordonnier, Loukas 2021"
VASWANI = "Vaswani et al. 2017"
LAYERS_PER_BLOCK = 2  # attention, and the layer of every single word
INITIAL = 0  # which inspection: before the first step
TRAINED = -1
SHALLOW = 2  # blocks
MIDDLE = 6
DEEP = 12
WITH = "identity"
WITHOUT = "none"
GAIN = 0.2  # of accuracy over always answering the most frequent topic
COLLAPSED = 1e-4
APART = 0.05
POWERS = (2.0, 4.0)  # around the third power; a fixed factor a block would give 1.5
LEAST_SHARE = 0.01  # of the mean gradient of a text's words
GRADIENT_RATIO = 0.01


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The spread of the words over depth, what is learned, which words count, and padding."""
    return [
        _words_collapse(runs),
        _collapse_accelerates(runs),
        _words_stay_apart(runs, INITIAL, "before training"),
        _words_stay_apart(runs, TRAINED, "trained"),
        _learns(runs, DEEP, "learned"),
        _deep_without_does_not(runs),
        _learns(runs, SHALLOW, "learned"),
        _learns(runs, SHALLOW, "one_hot"),
        _one_hot_helps(runs),
        _every_word_counts(runs),
        _hardly_any_word_counts(runs),
        _padding_changes_nothing(runs),
        _padding_has_no_gradient(runs),
    ]


def select(
    runs: Sequence[Run],
    depth: int,
    skip: str,
    word_vectors: str = "learned",
) -> list[Run]:
    """The runs with ``depth`` blocks, one for each seed.

    Args:
        runs: all runs.
        depth: number of blocks.
        skip: ``WITH`` or ``WITHOUT`` shortcuts.
        word_vectors: how a word is read, ``learned`` or ``one_hot``.
    """
    settings = {"model.depth": depth, "skip.kind": skip, "data.word_vectors": word_vectors}
    return where(runs, settings)


def block_spreads(run: Run, moment: int) -> np.ndarray:
    """How much the words of a text differ before the first block and after each, [blocks + 1]."""
    return run.inspections["token_spread"][moment][::LAYERS_PER_BLOCK]


def word_gradients(run: Run, moment: int) -> list[np.ndarray]:
    """For each text the norms of the gradient with respect to its words, without padding."""
    gradients = run.inspections["token_gradient"][moment]
    is_word = run.inspections["token_mask"][moment] > 0
    texts = []
    for norms, words in zip(gradients, is_word, strict=True):
        texts.append(norms[words])
    return texts


def most_frequent_share() -> float:
    """The held-out accuracy of the answer that is right most often."""
    labels = labeled_paragraphs()["test"].labels
    return float(np.bincount(labels).max() / len(labels))


def share_of_least_word(run: Run) -> float:
    """The least gradient of a word over the mean of its text; the least one of all texts."""
    shares = [norms.min() / norms.mean() for norms in word_gradients(run, TRAINED)]
    return float(min(shares))


def median_gradient(run: Run) -> float:
    """The median over all words of the norm of their gradient after training."""
    return float(np.median(np.concatenate(word_gradients(run, TRAINED))))


def _words_collapse(runs: Sequence[Run]) -> Claim:
    spreads = []
    for run in select(runs, DEEP, WITHOUT):
        spreads.append(block_spreads(run, INITIAL)[-1])
    return claim_on_every_seed(
        "12 blocks without shortcuts, before training: how much the words of a text differ at the "
        "end, as a share of their length",
        source=DONG,
        values=spreads,
        at_most=COLLAPSED,
    )


def _collapse_accelerates(runs: Sequence[Run]) -> Claim:
    powers = []
    for run in select(runs, DEEP, WITHOUT):
        logs = np.log(block_spreads(run, INITIAL))
        powers.append(float(logs[3] / logs[2]))
    low, high = POWERS
    return claim(
        "without shortcuts, before training: logarithm of the spread after block 3 over that after "
        "block 2",
        source=f"{DONG}, Theorem 2.2: the third power; a fixed factor a block would give 1.5",
        expected=f"{low:g} to {high:g} on every seed",
        values=powers,
        holds=min(powers) >= low and max(powers) <= high,
    )


def _words_stay_apart(
    runs: Sequence[Run],
    moment: int,
    name: str,
) -> Claim:
    spreads = []
    for run in select(runs, DEEP, WITH):
        spreads.append(block_spreads(run, moment)[-1])
    return claim_on_every_seed(
        f"12 blocks with shortcuts, {name}: how much the words of a text differ at the end",
        source=DONG,
        values=spreads,
        at_least=APART,
    )


def _gains(runs: Sequence[Run]) -> list[float]:
    """By how much each run's held-out accuracy exceeds that of the best constant answer."""
    constant = round(most_frequent_share(), 6)  # accuracies are recorded in float32
    return [round(accuracy, 6) - constant for accuracy in final_values(runs, "eval_accuracy")]


def _learns(
    runs: Sequence[Run],
    depth: int,
    word_vectors: str,
) -> Claim:
    gains = _gains(select(runs, depth, WITH, word_vectors))
    name = word_vectors.replace("_", "-")
    return claim_on_every_seed(
        f"{depth} blocks with shortcuts, {name} word vectors: held-out accuracy minus that of "
        "always answering the most frequent topic",
        source=VASWANI,
        values=gains,
        at_least=GAIN,
    )


def _deep_without_does_not(runs: Sequence[Run]) -> Claim:
    gains = _gains(select(runs, DEEP, WITHOUT))
    return claim_on_every_seed(
        "12 blocks without shortcuts: the same difference",
        source=DONG,
        values=gains,
        below=GAIN,
    )


def _one_hot_helps(runs: Sequence[Run]) -> Claim:
    learned = final_by_seed(select(runs, SHALLOW, WITH), "eval_accuracy")
    one_hot = final_by_seed(select(runs, SHALLOW, WITH, "one_hot"), "eval_accuracy")
    gains = [one_hot[seed] - learned[seed] for seed in learned]
    low, _ = mean_interval(gains)
    return claim(
        "2 blocks: held-out accuracy with one-hot minus that with learned word vectors, same seed",
        source="pilot: the same functions, but shorter initial vectors",
        expected="> 0 in the mean, by the paired 95 % interval",
        values=gains,
        holds=low > 0,
    )


def _every_word_counts(runs: Sequence[Run]) -> Claim:
    shares = [share_of_least_word(run) for run in select(runs, DEEP, WITH)]
    return claim_on_every_seed(
        "12 blocks with shortcuts, trained: gradient of the loss with respect to a word, least "
        "word of 64 texts over the mean of its text",
        source="Simonyan, Vedaldi, Zisserman 2014",
        values=shares,
        at_least=LEAST_SHARE,
    )


def _hardly_any_word_counts(runs: Sequence[Run]) -> Claim:
    without = by_seed(select(runs, DEEP, WITHOUT))
    ratios = []
    for seed, run in by_seed(select(runs, DEEP, WITH)).items():
        ratios.append(median_gradient(without[seed]) / median_gradient(run))
    return claim_on_every_seed(
        "12 blocks, trained: median gradient of a word without shortcuts over that with them",
        source=DONG,
        values=ratios,
        at_most=GRADIENT_RATIO,
    )


def _padding_changes_nothing(runs: Sequence[Run]) -> Claim:
    effects = [float(np.max(run.inspections["padding_effect"])) for run in runs]
    return claim(
        "all networks, before and after training: greatest change of an output with random numbers "
        "in place of padding",
        source="the mask of attention",
        expected="exactly 0 in every run",
        values=effects,
        holds=max(effects) == 0,
    )


def _padding_has_no_gradient(runs: Sequence[Run]) -> Claim:
    greatest = []
    for run in runs:
        gradients = run.inspections["token_gradient"]
        is_padding = run.inspections["token_mask"] == 0
        greatest.append(float(gradients[is_padding].max()))
    return claim(
        "all networks, before and after training: greatest gradient with respect to padding",
        source="the mask of attention",
        expected="exactly 0 in every run",
        values=greatest,
        holds=max(greatest) == 0,
    )
