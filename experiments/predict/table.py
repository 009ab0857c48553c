"""The table of all configurations: ``corpus.csv``, with their features and final losses."""

import csv
import pickle
from pathlib import Path

from research.diagnosis.features import measure_features

RESULT = "result.pickle"  # of a program, in its folder


def write_table(folder: Path) -> None:
    """Writes ``corpus.csv``: settings, final loss, seconds and features of all that is done."""
    lines = []
    for file in sorted(folder.glob(f"*/{RESULT}")):
        result = pickle.loads(file.read_bytes())
        purpose = file.parent.name.rstrip("0123456789")
        seconds = result["measuring_seconds"]
        runs = zip(result["arms"], result["measured"], result["losses"], strict=True)
        for arm, measured, loss in runs:
            line = {
                "purpose": purpose,
                "program": file.parent.name,
                "settings": " ".join(f"{path}={value}" for path, value in arm.items()),
                "final_loss": f"{loss:.4g}",
                "measuring_seconds": f"{seconds:.2f}",
            }
            for name, value in measure_features(measured).items():
                line[name] = f"{value:.4g}"
            lines.append(line)
    with Path(__file__).with_name("corpus.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
