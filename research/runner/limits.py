"""What the system allows to have open at once. No jax."""

import contextlib
import resource
import sys

FILES_A_RUN = (
    4  # its record's lock and its tables here, W&B's connection; W&B's own process keeps three
)
MANY = 2**20
OTHER_FILES = 128  # the interpreter's, the data's, the compilers'


def raise_open_files() -> int:
    """Lets this process and those that it starts have as many files open as they may; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, MANY)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_together(wanted: int) -> int:
    """How many of ``wanted`` runs can be open at once; past that, W&B would lose runs without a word.

    Raises:
        ValueError: where not even one can be.
    """
    files = raise_open_files()
    needed = OTHER_FILES + FILES_A_RUN * wanted
    most = (files - OTHER_FILES) // FILES_A_RUN
    if most < 1:
        raise ValueError(
            f"{files} open files are allowed, too few for a single run: ulimit -Hn {needed}"
        )
    if most < wanted:
        print(
            f"fathom: {files} open files are allowed, so that at most {most} runs are trained together; "
            f"ulimit -Hn {needed} lets {wanted}",
            file=sys.stderr,
        )
    return most
