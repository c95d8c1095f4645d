"""Files of verifiable tasks, made by seed: arithmetic and puzzles, strict JSON, calls with effects."""
