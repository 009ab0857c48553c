"""A reproduction is worth what its claims can refuse: with a law changed, a claim must fail."""

import json
import re
from pathlib import Path

import pytest

from research.config.hydra_config import resource_dir

SCRIPT = Path(__file__).with_name("changed_laws.py")
LAWS = {  # by experiment, as changed_laws.py names them
    "relu_growth": "weights",
    "edge_of_chaos": "weights",
    "glorot_init": "weights",
    "dynamical_isometry": "weights",
    "residual_growth": "branches",
    "gradient_identities": "statistics",
    "batch_norm_explosion": "statistics",
    "norm_free": "scales",
    "training_loop": "rectifier",
    "cross_entropy": "softmax",
    "differentiation": "tanh",
    "optimizers": "averages",
    "universal_approximation": "biases",
    "overfitting": "dropout",
    "layer_representations": "probe",
    "loss_landscape": "filters",
    "exploding_gradients": "clip",
    "sentences": "padding",
    "weight_decay_equilibrium": "decay",
    "adam_epsilon": "epsilon",
    "adaptive_edge_of_stability": "momentum",
    "layernorm_scaling": "branches",
    "rank_collapse": "attention",
    "hyper_connections": "mixing",
    "depth_transfer": "depth",
    "fp4_floor": "noise",
}
REFUTED = {  # what the claim that must fail speaks of, where not every failure is due to the law
    "overfitting": "10⁴ random masks",
    "layer_representations": "random weights: a linear probe's training error",
    "exploding_gradients": "cosine between the gradient before and after",
    "loss_landscape": "1 × the norm of each filter away: mean loss without over with shortcuts",
    "depth_transfer": "Adam, one matrix in a branch, depth_mup: rise",
    "sentences": "random numbers in place of padding",
}


def fails_anyway(experiment):
    """The claims that do not hold with the right law, as the experiment's page says."""
    page = (resource_dir("experiments") / experiment / "README.md").read_text()
    return set(re.findall(r"^\| ([^|]*) \|.*\| NO \|$", page, re.M))


@pytest.mark.parametrize("experiment", LAWS)
def test_the_claim_that_must_fail_holds_with_the_right_law(experiment):
    topic = REFUTED.get(experiment, "")
    page = (resource_dir("experiments") / experiment / "README.md").read_text()
    held = re.findall(r"^\| ([^|]*) \|.*\| yes \|$", page, re.M)
    assert any(topic in statement for statement in held)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", LAWS)
def test_a_changed_law_makes_a_claim_fail(experiment, workplace, process):
    run = process(SCRIPT, LAWS[experiment], experiment)
    out, err = run.communicate()
    assert run.returncode == 1, out + err

    claims = json.loads((workplace / "outputs" / experiment / "claims.json").read_text())
    failed = {claim["statement"] for claim in claims if not claim["holds"]}
    topic = REFUTED.get(experiment, "")
    assert any(topic in statement for statement in failed - fails_anyway(experiment))
