"""What tests read back of runs: their tables, their files, and their W&B records."""

import pyarrow.parquet as pq

TABLES = ("metrics", "profiles")


def read_table(run, name):
    return pq.read_table(run.directory / f"{name}.parquet")


def have_same_tables(run, other):
    """Whether two runs recorded the same numbers, bit for bit."""
    return all(read_table(run, name).equals(read_table(other, name)) for name in TABLES)


def relative_files(directory):
    """The paths of all files in a directory, relative to it."""
    paths = set()
    for file in directory.rglob("*"):
        if file.is_file():
            paths.add(str(file.relative_to(directory)))
    return paths


def modification_times(directory):
    """When each file in a directory was written."""
    return {file: file.stat().st_mtime_ns for file in directory.rglob("*") if file.is_file()}


def find_wandb_run(records):
    """The description of the run among the records of a W&B run."""
    (description,) = [record["run"] for record in records if record["type"] == "run"]
    return description


def find_wandb_rows(records):
    """The rows of training steps among the records of a W&B run, in order."""
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [row for row in rows if "train/loss" in row]
