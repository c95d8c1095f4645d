"""IFEval: does a reply follow instructions that a program can check (Zhou et al. 2023)."""
