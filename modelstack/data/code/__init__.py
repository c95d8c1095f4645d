"""Source files: their language, whether they are code that a person wrote, and under which licence.

`languages` tells what a file is, `rules` and `generated` drop what is no code to learn from, `license_step` keeps
what may be kept; `modelstack.data.privacy` takes keys out (`kinds = ["key"]`, `style = "tag"`). A file's path is
`metadata["path"]`, else that of its URL; its repository is `metadata["repository"]`, by which near duplicates are
found elsewhere.
"""
