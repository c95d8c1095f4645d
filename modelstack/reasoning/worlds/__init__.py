"""Small deterministic worlds with tools, in which the effect of a reply's calls can be seen."""
