"""Credits of the shipped corpus: each source's domain and authors, and the texts of the licences.

`modelstack/recipes/data/run/corpus.toml` chooses the sources, their amounts and their licences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A work or collection."""

    domain: str
    name: str
    """Field `source` of the records."""
    credit: str


SOURCES = (
    Source("stories", "african-storybook", "African Storybook; the author is in each license field"),
    Source("stories", "project-gutenberg(GITenberg)", "children's books and readers"),
    Source("stories", "standard-ebooks", "Standard Ebooks; children's novels"),
    Source("dialogues", "taskmaster-4", "Google Research, Taskmaster-4"),
    Source(
        "dialogues",
        "schema-guided-dialogue(train)",
        "Google Research, Rastogi et al., AAAI 2020; train only; share alike",
    ),
    Source("definitions", "wordnet-3.0", "Princeton University; notice below"),
    Source("textbooks", "openstax-prealgebra-bundle", "OpenStax, Rice University"),
    Source("textbooks", "openstax-psychology", "OpenStax, Rice University"),
    Source("textbooks", "openstax-us-history", "OpenStax, Rice University"),
    Source("textbooks", "openstax-astronomy", "OpenStax, Rice University"),
    Source("textbooks", "openstax-anatomy-physiology", "OpenStax, Rice University"),
    Source("textbooks", "openstax-introduction-philosophy", "OpenStax, Rice University"),
    Source("textbooks", "openstax-physics", "OpenStax, Rice University"),
    Source("textbooks", "openstax-introduction-python-programming", "OpenStax, Rice University"),
    Source("math", "gsm8k(train)", "OpenAI, Cobbe et al. 2021; train only; notice below"),
    Source("math", "templated-arithmetic", "generated from templates"),
    Source("howto", "gnome-user-docs", "GNOME documentation project; share alike"),
    Source("howto", "libreoffice-help", "LibreOffice contributors; the file is in each url"),
    Source("howto", "tldr-pages", "tldr-pages contributors"),
    Source("prose", "world-english-bible", "a modern translation"),
    Source("prose", "us-presidential-speeches(nltk)", "works of the US government"),
    Source("code", "TheAlgorithms-Python", "Copyright (c) 2016-2022 The Algorithms; notice below"),
    Source("codedocs", "sqlite-docs", "SQLite documentation"),
    Source("codedocs", "30-seconds-of-code", "30 seconds of code"),
)

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
