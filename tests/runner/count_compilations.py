"""Runs ``fathom`` and prints how often JAX's compilation cache had no program, and had one."""

import sys

import jax

from research.cli import main as cli

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
code = cli.run(sys.argv[1:])
misses = events.count("/jax/compilation_cache/cache_misses")
hits = events.count("/jax/compilation_cache/cache_hits")
print("misses", misses, "hits", hits)
sys.exit(code)
