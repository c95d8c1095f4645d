"""Data pipeline: a recipe of steps over raw files.

- `recipe`: the configuration.
- `phases`: the work as numbered tasks; `plan` derives it from a recipe.
- `run`: execution on this machine; `report`: the results.

A task depends on earlier phases only, writes its files atomically, and writes its record last. A run that was
killed repeats only tasks without a record, and its output equals that of an uninterrupted run. The same tasks run
in local processes or on datatrove's executors.
"""
