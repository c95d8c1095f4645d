"""`python -m modelstack`, and what torchrun starts."""

from modelstack.cli import main

main()
