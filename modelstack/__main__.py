"""Entry point of `python -m modelstack`, also started by torchrun."""

from modelstack.cli import main

main()
