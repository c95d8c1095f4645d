"""What `evals.speed.train_throughput` runs: programs that train, each in its own process, and their packages."""
