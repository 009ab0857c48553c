"""The command line as a module: ``python -m research train …``."""

import os
import sys


def main() -> None:
    """Runs the command line of this process; Ctrl-C during its first imports is one line."""
    # Commands draw into files only. Matplotlib refuses a backend that is not installed.
    if "MPLBACKEND" in os.environ:
        os.environ["MPLBACKEND"] = "agg"
    try:
        from research.cli.main import main as run_command
    except KeyboardInterrupt:
        print("fathom: interrupted", file=sys.stderr)
        sys.exit(1)
    run_command()


if __name__ == "__main__":
    main()
