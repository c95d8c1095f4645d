"""`python -m evals.post_training.off_policy_gradients [--markdown]`.

Print each algorithm's gradient on one fixed rollout, after the policy has changed: its norm, its cosine to GRPO's
gradient, and the settings in which its declaration differs from GRPO's. Takes a second and needs no files.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from evals.post_training.off_policy_gradients.table import as_markdown, as_table, rows

PROGRAM = "python -m evals.post_training.off_policy_gradients"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.post_training.off_policy_gradients", description=__doc__
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a terminal table")
    options = parser.parse_args()
    if options.markdown:
        sys.stdout.write(as_markdown(rows()) + "\n")
    else:
        Console().print(as_table(rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
