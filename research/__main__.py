"""The command line as a module: ``python -m research train …``."""

from research.cli.main import main

if __name__ == "__main__":
    main()
