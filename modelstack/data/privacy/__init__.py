"""Private data in a text: found by form and checksum, replaced by placeholders, counted.

`addresses`, `accounts`, `phones` and `secrets` find, each its kinds; `redaction` decides between findings that
overlap and writes the placeholders; `step` is the step of a run. `tools.data.privacy_cases` measures it on
labelled cases.
"""
