"""Works of the serving benchmark: a batch of requests, one request, and a prompt that is only read."""

from __future__ import annotations

from dataclasses import dataclass

N_ROWS = 8
N_PROMPT, N_REPLY = 64, 64
N_READ = 512
"""Sizes of the works, in requests and tokens."""


@dataclass(frozen=True, slots=True)
class Work:
    """Timed work: requests of equal size."""

    name: str
    n_requests: int
    n_prompt: int
    n_reply: int

    @property
    def n_counted(self) -> int:
        """Number of tokens in the speed: those written, or those read if only one is written."""
        return self.n_requests * (self.n_reply if self.n_reply > 1 else self.n_prompt)


WORKS = (
    Work(f"{N_ROWS} requests", N_ROWS, N_PROMPT, N_REPLY),
    Work("1 request", 1, N_PROMPT, N_REPLY),
    Work(f"prompt of {N_READ}", 1, N_READ, 1),
)
TINY = (Work("2 requests", 2, 8, 2),)
"""Work that only tests that everything works."""
