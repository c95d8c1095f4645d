"""What the corpus that ships with the package is chosen from: how much of which source, and under which licence.

The shares of the domains are those that suit a model of 5 to 30 million parameters that should speak simple
English: stories 30, dialogues 20, definitions 12, textbooks 12, mathematics 10, instructions 6, prose 4, code and
its documentation 6 percent of the text. Only licences that allow anyone to redistribute are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""The folder with one `DOMAIN.jsonl.zst` for each domain."""


@dataclass(frozen=True, slots=True)
class Source:
    """One work or collection, and the most text that is taken of it."""

    domain: str
    name: str
    """The field `source` of its records."""
    license: str
    """The field `license` of its records, or what that begins with, where each record adds its author."""
    megabytes: float
    """Millions of bytes of text."""
    credit: str


SOURCES = (
    Source("stories", "african-storybook", "CC-BY", 0.6, "African Storybook; the author is in each license field"),
    Source("stories", "project-gutenberg(GITenberg)", "public-domain-US", 2.5, "children's books and readers"),
    Source("stories", "standard-ebooks", "CC0-1.0/public-domain-US", 4.2, "Standard Ebooks; children's novels"),
    Source("dialogues", "taskmaster-4", "CC-BY-4.0", 0.8, "Google Research, Taskmaster-4"),
    Source(
        "dialogues",
        "schema-guided-dialogue(train)",
        "CC-BY-SA-4.0",
        4.0,
        "Google Research, Rastogi et al., AAAI 2020; train only; share alike",
    ),
    Source("definitions", "wordnet-3.0", "WordNet-3.0 (BSD-like)", 2.9, "Princeton University; notice below"),
    Source("textbooks", "openstax-prealgebra-bundle", "CC-BY-4.0", 0.5, "OpenStax, Rice University"),
    Source("textbooks", "openstax-psychology", "CC-BY-4.0", 0.4, "OpenStax, Rice University"),
    Source("textbooks", "openstax-us-history", "CC-BY-4.0", 0.4, "OpenStax, Rice University"),
    Source("textbooks", "openstax-astronomy", "CC-BY-4.0", 0.4, "OpenStax, Rice University"),
    Source("textbooks", "openstax-anatomy-physiology", "CC-BY-4.0", 0.4, "OpenStax, Rice University"),
    Source("textbooks", "openstax-introduction-philosophy", "CC-BY-4.0", 0.3, "OpenStax, Rice University"),
    Source("textbooks", "openstax-physics", "CC-BY-4.0", 0.3, "OpenStax, Rice University"),
    Source("textbooks", "openstax-introduction-python-programming", "CC-BY-4.0", 0.2, "OpenStax, Rice University"),
    Source("math", "gsm8k(train)", "MIT", 1.6, "OpenAI, Cobbe et al. 2021; train only; notice below"),
    Source("math", "templated-arithmetic", "CC0-1.0", 0.8, "generated from templates"),
    Source("howto", "gnome-user-docs", "CC-BY-SA-3.0", 0.5, "GNOME documentation project; share alike"),
    Source("howto", "libreoffice-help", "MPL-2.0", 0.5, "LibreOffice contributors; the file is in each url"),
    Source("howto", "tldr-pages", "CC-BY-4.0", 0.4, "tldr-pages contributors"),
    Source("prose", "world-english-bible", "public-domain", 0.6, "a modern translation"),
    Source("prose", "us-presidential-speeches(nltk)", "public-domain", 0.4, "works of the US government"),
    Source("code", "TheAlgorithms-Python", "MIT", 0.7, "Copyright (c) 2016-2022 The Algorithms; notice below"),
    Source("codedocs", "sqlite-docs", "public-domain", 0.4, "SQLite documentation"),
    Source("codedocs", "30-seconds-of-code", "CC0-1.0", 0.3, "30 seconds of code"),
)

LEFT_OUT_SOURCES = {
    "python-stdlib": "PSF-2.0 asks for its whole agreement; long modules teach little simple English",
    "python-3.13-docs": "PSF-2.0, as above",
    "rust-book": "MIT or Apache-2.0; another language than the code here",
    "exercism-problems": "MIT; its copyright line was not at hand",
    "google-eng-practices": "CC-BY-3.0; 14 documents on code review",
    "debian-handbook": "CC-BY-SA-3.0 or GPL-2+; administrators' prose",
}
"""Sources that nothing is taken of, and why."""

LEFT_OUT_URLS = {
    "a-a-milne": "A. A. Milne died in 1956: protected outside the United States",
    "Old-Mother-West-Wind": "T. W. Burgess died in 1965: protected outside the United States",
    "elisabeth-p-stork": "a translation; the year of the translator's death is not known here",
}
"""Parts of a url whose records are not taken, and why."""

NOTICES = """\
### MIT (gsm8k: OpenAI; TheAlgorithms-Python: Copyright (c) 2016-2022 The Algorithms)

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.

### WordNet 3.0

This software and database is being provided to you, the LICENSEE, by Princeton University under the following
license. By obtaining, using and/or copying this software and database, you agree that you have read,
understood, and will comply with these terms and conditions.:

Permission to use, copy, modify and distribute this software and database and its documentation for any purpose
and without fee or royalty is hereby granted, provided that you agree to comply with the following copyright
notice and statements, including the disclaimer, and that the same appear on ALL copies of the software,
database and documentation, including modifications that you make for internal use or for distribution.

WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.

THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES,
EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE,
DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.

The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to
distribution of the software and/or database. Title to copyright in this software, database and any associated
documentation shall at all times remain with Princeton University and LICENSEE agrees to preserve same.
"""

LICENSE_LINKS = {
    "CC-BY": "https://creativecommons.org/licenses/ (BY; the version is at each url)",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC0-1.0/public-domain-US": "https://creativecommons.org/publicdomain/zero/1.0/",
    "MPL-2.0": "https://www.mozilla.org/MPL/2.0/",
    "MIT": "below",
    "WordNet-3.0 (BSD-like)": "below",
    "public-domain": "none needed",
    "public-domain-US": "none needed in the United States",
}
"""Each licence of the corpus: all allow redistribution; share-alike ones only under themselves."""
