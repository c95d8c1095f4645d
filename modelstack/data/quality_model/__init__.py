"""A learned score of a text's quality: reference texts against raw ones, fitted on one's own documents.

The manner is DCLM's (Li et al. 2024, arXiv 2406.11794, section 4.4): a linear classifier over runs of one and two
words, which learns to tell texts that are good from texts as they come, and a threshold on its probability.
`features` are those runs, `model` scores and is a file, `fit` makes one with its card, `step` is a run's step.
"""
