"""Work of each step of a pipeline, done by the step's own library."""
