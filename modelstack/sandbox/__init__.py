"""Running programs that a model wrote, and judging them where they cannot reach."""
