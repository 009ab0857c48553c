"""A reproduction is worth what its claims can refuse: with a law of the package changed, some of them must fail."""

import json

import pytest

CHANGED = """
import sys
from research import cli
{law}
sys.exit(cli.run(["reproduce", *sys.argv[1:], "tracker=none"]))
"""
LAWS = {
    "weights of 5 % more variance": """
from research.models import init
scheme = init._scheme
init._scheme = lambda name: lambda *of: 1.05**0.5 * scheme(name)(*of)
""",
    "gradients as squared norms": """
from research.gauges import slots
norm = slots.tree_euclidean
slots._tap.defvjp(lambda h, slot: (h, None), lambda _, cotangent: (cotangent, norm(cotangent) ** 2))
""",
    "branches times 1.25": """
from research.models.skip import Skip
put_together = Skip._sum
Skip._sum = lambda self, h, branch, *rest: put_together(self, h, 1.25 * branch, *rest)
""",
    "batch statistics of half the batch": """
from flax import nnx
import jax.numpy as jnp
normalised = nnx.BatchNorm.__call__
nnx.BatchNorm.__call__ = lambda self, h, **how: jnp.concatenate(
    [normalised(self, half, **how) for half in jnp.split(h, 2)])
""",
    "steps 15 % longer": """
from research.training import program
rate = program.learning_rate
program.learning_rate = lambda *of: 1.15 * rate(*of)
""",
    "exponents two too high": """
import jax
from research.gauges import exponents
places = exponents._places
exponents._places = lambda x: jax.numpy.where((found := places(x)) < exponents.BINS - 2, found + 2, found)
""",
}
DEPENDENT = {
    "vanishing_gradients": "gradients as squared norms",
    "relu_growth": "weights of 5 % more variance",
    "glorot_init": "gradients as squared norms",
    "edge_of_chaos": "weights of 5 % more variance",
    "residual_growth": "branches times 1.25",
    "batch_norm_explosion": "batch statistics of half the batch",
    "norm_placement": "branches times 1.25",
    "dynamical_isometry": "weights of 5 % more variance",
    "edge_of_stability": "steps 15 % longer",
    "fp16_underflow": "exponents two too high",
    "norm_free": "branches times 1.25",
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", DEPENDENT)
def test_a_changed_law_makes_a_claim_fail(experiment, workplace, process, record_property):
    out, err = (run := process("-c", CHANGED.format(law=LAWS[DEPENDENT[experiment]]), experiment)).communicate()
    claims = json.loads((workplace / "outputs" / experiment / "claims.json").read_text())
    failed = [claim["statement"] for claim in claims if not claim["holds"]]
    record_property("failed", failed)
    print(experiment, DEPENDENT[experiment], len(claims), *failed, sep="\n  ")
    assert run.returncode == 1 and failed, out + err
