"""A recipe of steps over raw files: `recipe` says what, `phases` what work that is, `run` does it, `report` tells.

Work is cut into phases of numbered tasks. A task depends on the phases before alone, writes files that appear
whole or not at all, and writes its record last: a run that was killed does again what has no record, and nothing
else, and its output is that of a run that was not killed. So the same tasks run in the processes of one machine or
on datatrove's executors.
"""
