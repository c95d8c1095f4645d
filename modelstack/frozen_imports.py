"""The last import of the server that `modelstack.processes` forks: exempts what was imported from collections.

In a fork, a full collection would visit each object of the imported modules (0.3 s) and copy the memory pages that
it marks.
"""

import gc

gc.collect()
gc.freeze()
