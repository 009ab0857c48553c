"""Where the raw files of catalogue datasets lie, for the tests that need real ones."""

import os
from pathlib import Path

DEFAULT_RAW_DIR = Path(__file__).parents[3] / "shared" / "data"
RAW_DIR = Path(os.environ.get("FATHOM_RAW_DIR") or DEFAULT_RAW_DIR)
