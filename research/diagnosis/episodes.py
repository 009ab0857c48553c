"""Episodes: stretches of measured steps over which a condition holds."""

from dataclasses import dataclass

import numpy as np

LONGEST_HALF_WINDOW = 25  # rows
ROWS_PER_HALF_WINDOW = 20  # of the rows, the window reaches over a twentieth on either side


@dataclass(frozen=True)
class Episode:
    """Rows ``first`` to ``last``, over which a condition holds.

    Attributes:
        first: the first row.
        last: the last row.
        is_open: whether it lasts until the end.
    """

    first: int
    last: int
    is_open: bool

    def __len__(self) -> int:
        return self.last - self.first + 1


def majority(holds: np.ndarray) -> np.ndarray:
    """Whether a condition holds for most rows around each row, [S].

    A single row that differs from its neighbours changes nothing, and a clean change from one state
    to another stays where it is. The window shrinks at both ends.
    """
    count = len(holds)
    if count < 3:
        return holds if holds.all() else np.zeros(count, bool)
    half = max(1, count // ROWS_PER_HALF_WINDOW)
    half = min(LONGEST_HALF_WINDOW, half)
    sums = np.concatenate([[0], np.cumsum(holds)])
    rows = np.arange(count)
    starts = np.maximum(rows - half, 0)
    ends = np.minimum(rows + half + 1, count)
    num_holding = sums[ends] - sums[starts]
    num_rows = ends - starts
    return 2 * num_holding > num_rows


def find_episodes(holds: np.ndarray) -> list[Episode]:
    """The stretches over which a condition [S] holds, in the order of their steps.

    Each starts at a row at which the condition itself holds, and ends at one unless it is open.
    """
    holds = np.asarray(holds, bool)
    smooth = majority(holds).astype(int)
    changes = np.diff(smooth, prepend=0, append=0)
    firsts = np.flatnonzero(changes == 1)
    lasts = np.flatnonzero(changes == -1) - 1
    episodes = []
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        rows = first + np.flatnonzero(holds[first : last + 1])
        if not len(rows):
            continue
        is_open = last == len(holds) - 1
        last_row = last if is_open else int(rows[-1])
        episode = Episode(first=int(rows[0]), last=last_row, is_open=is_open)
        episodes.append(episode)
    return episodes
