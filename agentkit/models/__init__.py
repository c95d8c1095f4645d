"""Models: the protocol, remote and in-process ones, fall-backs, and the catalog of weights."""
