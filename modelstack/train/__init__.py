"""Step 5, training: loop, optimizers, schedules, precision, parallelism."""
