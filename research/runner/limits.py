"""The system's limit on open files. No jax."""

import contextlib
import resource
import sys

# The lock and the tables of the record, W&B's connection and TensorBoard's file. W&B's own process
# opens three more.
FILES_PER_RUN = 5
OTHER_FILES = 128  # of the interpreter, the data and the compilers
UNLIMITED_FILES = 2**20  # what to ask for where the system sets no limit


def raise_open_files() -> int:
    """Raises the limit of this process and its children as far as it can be; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard
    if hard == resource.RLIM_INFINITY:
        limit = max(soft, UNLIMITED_FILES)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they report
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_open_runs(num_runs: int) -> int:
    """The number of runs that can be open at once; beyond it W&B would lose runs silently.

    Prints a line where it is less than ``num_runs``.

    Raises:
        ValueError: not even one run can be open.
    """
    limit = raise_open_files()
    needed = OTHER_FILES + FILES_PER_RUN * num_runs
    possible = (limit - OTHER_FILES) // FILES_PER_RUN
    if possible < 1:
        raise ValueError(
            f"{limit} open files are allowed, too few for a single run: ulimit -Hn {needed}"
        )
    if possible < num_runs:
        print(
            f"fathom: {limit} open files are allowed, so at most {possible} runs are trained "
            f"at once; ulimit -Hn {needed} allows {num_runs}",
            file=sys.stderr,
        )
    return possible
