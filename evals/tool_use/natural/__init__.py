"""Requests as people write them, over tools that no training set has: validation data, for choosing, not a test.

307 requests written by hand for 86 invented tools of 18 fields (kennel, bakery, crane, archive, ...), with
the calls that are right. A fifth means several calls, a quarter none at all, most of these near-misses.
Values are often implied: "tomorrow" beside a given today, "half an hour" for 30 minutes, "a quarter turn to
the right". Data, adapters and thresholds may be chosen by it, so its figure is no measure of generalisation;
BFCL is. The tools are kept out of training data by name and text (`modelstack data tools` is given this folder
as an evaluation). Written for this project, under its licence (Apache-2.0).
"""
