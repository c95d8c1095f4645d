"""Requests as people write them, over tools outside all training sets; validation data for choices, not a test.

307 handwritten requests for 86 invented tools of 18 fields (kennel, bakery, crane, archive, ...), with their
correct calls. A fifth needs several calls; a quarter needs none, mostly because the tools only nearly fit. Values
are often implied: "tomorrow" with a given current date, "half an hour" for 30 minutes, "a quarter turn to the
right". Data, adapters and thresholds may be chosen with it, so its scores do not measure generalisation; BFCL
does. The tools are excluded from training data by name and text (`modelstack data tools` takes this folder as an
evaluation). Written for this project, under its licence (Apache-2.0).
"""
