"""Private data in texts: detected by form and checksum, replaced by placeholders, counted.

`addresses`, `accounts`, `phones` and `secrets` detect one group of kinds each. `redaction` resolves overlapping
findings and inserts placeholders. `step` is the pipeline step. `tools.data.privacy_cases` measures all detectors
on labelled cases.
"""
