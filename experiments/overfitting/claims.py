"""Claims about overfitting and what helps against it; their thresholds were set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, final_by_seed, final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed, mean_interval

SRIVASTAVA = "Srivastava et al. 2014"
BISHOP = "Bishop 1995"
KROGH = "Krogh & Hertz 1992"
ZHANG = "Zhang et al. 2017, §2.1"
EXAMPLES = 100  # of the small training set
TEST_EXAMPLES = 397
CHANCE = 0.1  # of ten classes
# A prediction for random labels depends on two draws: of the labels, and of the test examples.
CHANCE_DEVIATION = math.sqrt(CHANCE * (1 - CHANCE) * (1 / EXAMPLES + 1 / TEST_EXAMPLES))
ARMS = {  # what each group of runs differs in from plain training
    "plain": {},
    "dropout 0.5": {"model.dropout": 0.5},
    "input noise 1.0": {"train.input_noise": 1.0},
    "weight decay": {"optimizer.weight_decay": 0.01},
    "1400 examples": {"data.limit": 1400},
    "random labels": {"data.label_noise": 1.0},
}
PLAIN = {
    "activation.kind": "relu",
    "model.dropout": 0.0,
    "train.input_noise": 0.0,
    "optimizer.weight_decay": 0.0,
    "data.limit": EXAMPLES,
    "data.label_noise": 0.0,
}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The gap, what narrows it, and what a network learns of random labels."""
    return [
        _learns_by_heart(runs),
        _gets_worse(runs),
        _rises_with_confidence(runs),
        _remedy_helps(runs, "input noise 1.0", BISHOP),
        _remedy_helps(runs, "weight decay", KROGH),
        _dropout_does_not(runs),
        _more_data_help(runs),
        _learns_random_labels(runs),
        _learns_nothing_else(runs),
        _masks_keep_the_mean(runs),
    ]


def select_arm(runs: Sequence[Run], arm: str) -> list[Run]:
    """The runs of one of ``ARMS``, one for each seed."""
    return where(runs, PLAIN | ARMS[arm])


def held_out_losses(run: Run) -> np.ndarray:
    """The loss of the test split at each evaluation."""
    losses = run.metrics["eval_loss"]
    return losses[np.isfinite(losses)]


def _learns_by_heart(runs: Sequence[Run]) -> Claim:
    losses = final_values(select_arm(runs, "plain"), "train_loss")
    return claim_on_every_seed(
        "plain, 100 examples: training loss after 1500 steps",
        source=ZHANG,
        values=losses,
        below=0.001,
    )


def _gets_worse(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in select_arm(runs, "plain"):
        losses = held_out_losses(run)
        ratios.append(float(losses[-1] / losses.min()))
    return claim_on_every_seed(
        "plain, 100 examples: final held-out loss over its minimum during training",
        source="Prechelt 1998",
        values=ratios,
        at_least=1.15,
    )


def _rises_with_confidence(runs: Sequence[Run]) -> Claim:
    """Logits that are c ≥ 1 times as large make the loss of an example at most c times as large.

    A small training loss is the exponential of minus the logits' margin, so its logarithm tells how
    much the logits have grown since the best moment.
    """
    shares = []
    for run in select_arm(runs, "plain"):
        evaluated = np.flatnonzero(np.isfinite(run.metrics["eval_loss"]))
        unseen = held_out_losses(run)
        seen = np.log(run.metrics["train_loss"][evaluated])
        best = int(np.argmin(unseen))
        growth = seen[-1] / seen[best]
        shares.append(float((unseen[-1] / unseen[best] - 1) / (growth - 1)))
    return claim(
        "the same ratio minus 1, over c − 1, where c is the logarithm of the final training loss "
        "over that at the best moment",
        source="ln Σ exp(c·z) ≤ c·ln Σ exp(z) for c ≥ 1: growing logits",
        expected="above 0 and at most 1 on every seed",
        values=shares,
        holds=min(shares) > 0 and max(shares) <= 1,
    )


def _remedy_helps(
    runs: Sequence[Run],
    arm: str,
    source: str,
) -> Claim:
    gains = _gains(runs, arm)
    low, _ = mean_interval(gains)
    return claim(
        f"{arm}: held-out loss of plain training minus this one, same initial weights",
        source=source,
        expected="> 0 in the mean, by the paired 95 % interval",
        values=gains,
        holds=low > 0,
    )


def _gains(runs: Sequence[Run], arm: str) -> list[float]:
    """By how much each seed ends with a lower held-out loss than in plain training."""
    plain = final_by_seed(select_arm(runs, "plain"), "eval_loss")
    helped = final_by_seed(select_arm(runs, arm), "eval_loss")
    return [plain[seed] - helped[seed] for seed in plain]


def _dropout_does_not(runs: Sequence[Run]) -> Claim:
    gains = _gains(runs, "dropout 0.5")
    low, _ = mean_interval(gains)
    return claim(
        "dropout 0.5: held-out loss of plain training minus this one, same initial weights",
        source=f"{SRIVASTAVA}, §7.4 and Fig. 10: no gain with 100 examples",
        expected="not > 0 in the mean, by the paired 95 % interval",
        values=gains,
        holds=low <= 0,
    )


def _more_data_help(runs: Sequence[Run]) -> Claim:
    plain = final_by_seed(select_arm(runs, "plain"), "eval_loss")
    more = final_by_seed(select_arm(runs, "1400 examples"), "eval_loss")
    ratios = [more[seed] / plain[seed] for seed in plain]
    return claim_on_every_seed(
        "1400 examples: final held-out loss over that of 100 examples",
        source="Vapnik 1998: more examples, less to learn by heart",
        values=ratios,
        below=0.25,
    )


def _learns_random_labels(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_arm(runs, "random labels"), "train_accuracy")
    return claim_on_every_seed(
        "labels drawn at random: training accuracy",
        source=ZHANG,
        values=accuracies,
        above=0.99,
    )


def _learns_nothing_else(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_arm(runs, "random labels"), "eval_accuracy")
    margin = 3 * CHANCE_DEVIATION
    distances = [abs(accuracy - CHANCE) for accuracy in accuracies]
    return claim(
        "labels drawn at random: held-out accuracy",
        source=ZHANG,
        expected=f"chance, 0.1 ± {margin:.3f} = 3σ, on every seed",
        values=accuracies,
        holds=max(distances) <= margin,
    )


def _masks_keep_the_mean(runs: Sequence[Run]) -> Claim:
    deviations = []
    for run in by_seed(where(runs, {"activation.kind": "linear"})).values():
        deviations.append(mask_deviation(run))
    return claim_on_every_seed(
        "linear network, dropout 0.5: mean output of 10⁴ random masks minus the output without "
        "masks, in standard errors, root mean square over outputs",
        source=f"{SRIVASTAVA}, §10",
        values=deviations,
        at_most=3,
    )


def mask_deviation(run: Run) -> float:
    """How far masks shift the mean output, in standard errors, at initialisation."""
    measured = run.inspections
    shift = measured["masked_output_mean"][0] - measured["unmasked_output"][0]
    in_errors = shift / measured["masked_output_error"][0]
    return float(np.sqrt(np.mean(in_errors**2)))
