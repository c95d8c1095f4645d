"""Source files: their language, whether a person wrote them as code, and their licence.

- `languages` identifies the language.
- `rules` and `generated` drop files unsuitable for learning code.
- `license_step` keeps files under allowed licences.
- `modelstack.data.privacy` removes keys (`kinds = ["key"]`, `style = "tag"`).

The path of a file is `metadata["path"]`, or else the path of its URL. Its repository is `metadata["repository"]`.
"""
