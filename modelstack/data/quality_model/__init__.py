"""Learned quality score: a classifier of reference texts against raw texts, fitted on the user's documents.

The method is DCLM's (Li et al. 2024, arXiv 2406.11794, section 4.4): a linear classifier over runs of one and two
words separates good texts from unfiltered ones, with a threshold on its probability. `features` computes the runs,
`model` scores texts and defines the file format, `fit` fits a model and writes its card, `step` is the pipeline
step.
"""
