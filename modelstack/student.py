"""Student's interval of a mean over a few values, for example of a training's seeds (Student, 1908)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def half_width_95(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean of independent values.

    At three values it is twice that of the normal distribution. Needs scipy (extra `train`), imported on use.

    Raises:
        ValueError: there are fewer than two values.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        raise ValueError(f"{n} value: Student's interval needs two or more")
    return float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
