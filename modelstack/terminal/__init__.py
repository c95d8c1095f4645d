"""Output of the command lines: tables, progress of long work, and help texts."""
