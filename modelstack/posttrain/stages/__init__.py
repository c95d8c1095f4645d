"""Stages: the results of post-training, each with its record, model card and lineage."""
