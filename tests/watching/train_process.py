"""One of the processes of a loop that ``research.Monitor`` records.

usage: train_process.py PORT PROCESSES PROCESS

The loss is the mean over the whole batch, of which each process holds a part.
"""

import sys

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import research
from tests.watching import networks

STEPS = 3


def shard(mesh, tree, spec):
    """The arrays of a tree on the devices of all processes."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part]),
        tree,
    )


def main(port, num_processes, process):
    if num_processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes, process)
    mesh = jax.make_mesh((num_processes,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    params = shard(mesh, networks.make_params(), P())
    batch = shard(mesh, networks.make_batch(), P("batch"))
    watch = research.watch()

    @jax.jit
    def step(params, batch):
        loss, grads, gauges = watch.value_and_grad(networks.scanned_loss)(params, batch)
        after = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads)
        return after, loss, gauges

    with research.Monitor("outputs/mine/run", watch) as monitor:
        for number in range(STEPS):
            params, loss, gauges = step(params, batch)
            monitor.log(number, gauges, loss=loss)
        print(monitor.verdict())


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(*map(int, sys.argv[1:]))
