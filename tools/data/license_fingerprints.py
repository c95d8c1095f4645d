"""Write `modelstack/data/code/licenses.json` from licence texts on this machine.

    python -m tools.data.license_fingerprints

Sources are Debian's common licences and texts that Python packages carry. A licence that is not found keeps its
fingerprint in the file. A text that contains more than the licence is cut from one phrase to another.
"""

from __future__ import annotations

import base64
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelstack.data.code.license_texts import FINGERPRINTS, N_HASHES, run_hashes, without_holders
from modelstack.files import replacing

_COMMON = Path("/usr/share/common-licenses")
_DOCS = Path("/usr/share/doc")
_PACKAGES = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True, slots=True)
class Source:
    """Place of a licence text: the first file of a pattern that has both phrases."""

    license_id: str
    root: Path
    pattern: str
    begin: str = ""
    end: str = ""


_BSD = "Redistribution and use in source and binary forms"
_BSD_END = "POSSIBILITY OF SUCH DAMAGE"
_MIT = "Permission is hereby granted, free of charge"
_SOURCES = (
    *(
        Source(name, _COMMON, name)
        for name in (
            *("Apache-2.0", "Artistic-2.0", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"),
            *("CC0-1.0", "GFDL-1.2", "GFDL-1.3", "MPL-1.1", "MPL-2.0", "OFL-1.1", "AGPL-3.0"),
        )
    ),
    Source("Artistic-1.0", _COMMON, "Artistic"),
    Source("GPL-1.0", _COMMON, "GPL-1"),
    Source("GPL-2.0", _COMMON, "GPL-2"),
    Source("GPL-3.0", _COMMON, "GPL-3"),
    Source("LGPL-2.0", _COMMON, "LGPL-2"),
    Source("LGPL-2.1", _COMMON, "LGPL-2.1"),
    Source("LGPL-3.0", _COMMON, "LGPL-3"),
    Source("BSD-3-Clause", _PACKAGES, "idna-*/licenses/LICENSE*", _BSD, _BSD_END),
    Source("BSD-3-Clause", _COMMON, "BSD", _BSD, _BSD_END),
    Source("BSD-2-Clause", _PACKAGES, "wrapt-*/licenses/LICENSE", _BSD, _BSD_END),
    Source(
        "BSD-4-Clause", _DOCS, "*/copyright", _BSD + "[^~]{0,900}All advertising materials mentioning", _BSD_END
    ),
    Source(
        *("BlueOak-1.0.0", _PACKAGES, "playwright/driver/LICENSE"),
        *("This license gives everyone as much permission", "any kind of legal claim"),
    ),
    Source("MIT", _PACKAGES, "pluggy-*/licenses/LICENSE", _MIT, "DEALINGS IN THE SOFTWARE"),
    Source("MIT-0", _PACKAGES, "cffi-*/licenses/LICENSE", _MIT, "DEALINGS IN THE SOFTWARE"),
    Source(
        "X11", _DOCS, "*/copyright", _MIT + "[^~]{0,1800}not be used in advertising", "prior written authorization"
    ),
    Source(
        "MIT-CMU", _PACKAGES, "pillow-*/licenses/LICENSE", "By obtaining, using", "PERFORMANCE OF THIS SOFTWARE"
    ),
    Source("ISC", _PACKAGES, "shellingham-*/LICENSE", "Permission to use, copy", "PERFORMANCE OF THIS SOFTWARE"),
    Source(
        "0BSD", _PACKAGES, "numpy-*/licenses/**/pythoncapi-compat/COPYING", "Permission to", "OF THIS SOFTWARE"
    ),
    Source("Zlib", _PACKAGES, "numpy-*/licenses/**/libdivide/LICENSE.txt", "This software is", "any source"),
    Source(
        *("PSF-2.0", _PACKAGES, "greenlet-*/licenses/LICENSE.PSF"),
        *("1\\. This LICENSE AGREEMENT", "agrees to be bound by the terms"),
    ),
    Source(
        "CNRI-Python",
        _PACKAGES,
        "typing_extensions-*/licenses/LICENSE",
        "1\\. This LICENSE AGREEMENT is between the Corp",
        "ACCEPT\\W+button",
    ),
    Source("Unlicense", _DOCS, "*/copyright", "This is free and unencumbered", "DEALINGS IN THE\\W+SOFTWARE"),
    Source(
        *("WTFPL", _PACKAGES, "pyarrow-*/licenses/LICENSE.txt"),
        *(
            "DO WHAT THE FUCK YOU WANT TO PUBLIC LICENSE Version[^~]{0,900}You",
            "just DO WHAT THE FUCK YOU WANT TO",
        ),
    ),
    Source(
        *("NCSA", _DOCS, "*/copyright"),
        *(_MIT + "[^~]{0,700}following conditions:[^~]{0,900}endorse", "WITH THE\\W+SOFTWARE"),
    ),
    Source("Unicode-3.0", _PACKAGES, "babel/locale-data/LICENSE.unicode", _MIT, "of the copyright holder"),
    Source(
        "EPL-1.0", _DOCS, "libsisu-inject-java/copyright", "THE ACCOMPANYING PROGRAM", "any resulting litigation"
    ),
)


def main() -> None:
    """Write the fingerprints and print the source of each."""
    old = json.loads(FINGERPRINTS.read_text(encoding="utf-8"))["licenses"] if FINGERPRINTS.exists() else []
    entries = []
    for source in _SOURCES:
        key = f"{source.license_id} {source.pattern}"
        text = next(_texts(source), None)
        if text is None:
            kept = [entry for entry in old if entry["source"] == key]
            print(f"{source.license_id:14} not found" + (", kept as it was" if kept else ""))
            entries += kept
            continue
        hashes = run_hashes(text)
        print(f"{source.license_id:14} {len(hashes):6} runs of {source.pattern}")
        sample = np.array(sorted(hashes)[:N_HASHES], "<u4")
        entries.append(
            {
                "id": source.license_id,
                "source": key,
                "n_runs": len(hashes),
                "hashes": base64.b64encode(sample.tobytes()).decode(),
            }
        )
    with replacing(FINGERPRINTS) as temporary:
        temporary.write_text(json.dumps({"licenses": entries}, indent=1) + "\n", encoding="utf-8")


def _texts(source: Source) -> Iterator[str]:
    for path in sorted(source.root.glob(source.pattern)):
        text = without_holders(path.read_text(encoding="utf-8", errors="replace"))
        words = re.sub(r"\s+", " ", re.sub(r"\n[ \t.*#]*", "\n", text))
        if not source.begin:
            yield text
        # The shortest match, because a file may hold several licences one after the other.
        elif match := re.search(
            f"(?:{source.begin})(?:(?!{_BSD}|{_MIT}).){{0,60000}}?(?:{source.end})", words, re.I
        ):
            yield match[0]


if __name__ == "__main__":
    main()
