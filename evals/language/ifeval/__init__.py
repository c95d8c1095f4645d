"""IFEval: whether a reply follows instructions that a program can check (Zhou et al. 2023)."""
