"""Language suites: mathematics, instructions, code, knowledge, and bits per byte."""
