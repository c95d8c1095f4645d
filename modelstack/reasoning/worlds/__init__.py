"""Small deterministic worlds with tools, in which the effects of a reply's calls can be checked."""
