"""Documents that a model of ours writes after real ones: templates, checks, a run that goes on where it stopped.

Rephrasing and questions with answers, as Nemotron-CC has them (Su et al. 2024, arXiv 2412.02595). The model itself
is not known here: it is a callable that is given from above.
"""
