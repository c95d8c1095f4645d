"""What datatrove's PIIFormatter makes of the labelled cases, for the test of parity beside this file.

python -m tests.modelstack.data.privacy.record_datatrove_privacy ENVIRONMENT_FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evals.speed.peers import peer_python
from modelstack.files import replacing
from tools.data.privacy_cases import read_cases

ANSWERS = Path(__file__).with_name("datatrove-0.10.1.json")
# datatrove 0.10.1 hashes text, which xxhash 4 refuses.
PACKAGES = ("datatrove==0.10.1", "xxhash<4", "regex")
_PROGRAM = """
import json, sys
from datatrove.pipeline.formatters.pii import PIIFormatter
# A formatter goes on counting from text to text, ours begins at each document: a fresh one each.
print(json.dumps([PIIFormatter().format(text) for text in json.load(sys.stdin)]))
"""


def main() -> None:
    """Record the answer to each case that it changes."""
    texts = [case.text for case in read_cases()]
    python = peer_python(Path(sys.argv[1]), PACKAGES)
    done = subprocess.run(
        [str(python), "-c", _PROGRAM], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    answers = {text: answer for text, answer in zip(texts, json.loads(done.stdout), strict=True) if text != answer}
    with replacing(ANSWERS) as temporary:
        temporary.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(answers)} of {len(texts)} texts changed by datatrove")


if __name__ == "__main__":
    main()
