"""`python -m evals.post_training.off_policy_gradients [--markdown]`.

Print each algorithm's gradient on one fixed rollout that the policy has moved away from: its norm, its cosine to
GRPO's, and what its declaration has other than GRPO's. It takes a second and depends on nothing.
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
    parser.add_argument("--markdown", action="store_true", help="for a page instead of a terminal")
    options = parser.parse_args()
    if options.markdown:
        sys.stdout.write(as_markdown(rows()) + "\n")
    else:
        Console().print(as_table(rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
