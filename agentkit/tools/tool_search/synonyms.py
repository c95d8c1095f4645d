"""Words with which people ask for what the names of tools say otherwise: general English, no product names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

_GROUPS = """
list show see view display browse
get fetch retrieve read look find lookup pull load check
create make add new build register insert start open provision
delete remove erase drop clear discard destroy trash unlink bin wipe
update change edit modify patch rename alter adjust replace configure
send post message text write deliver email mail
search find look discover query seek
cancel abort stop end terminate kill close
begin launch run trigger execute start
compute calculate work evaluate
upload put add
download grab save get
restore recover undelete revert rollback roll
price cost quote
user person member account people
permission access right role policy
picture photo image snapshot screenshot
call phone ring dial
money payment pay charge
buy purchase order
bug issue error problem failure
meeting conference appointment event
file document
directory folder
repository repo
thread conversation chat
enable activate
disable deactivate
convert turn transform translate
assign give grant link associate attach
unassign revoke remove take
notify alert warn tell notification
"""


@cache
def synonyms() -> Mapping[str, frozenset[str]]:
    """Return the synonyms of each stem, as stems."""
    from modelstack.toolcalls.prior.lexical import words

    found: dict[str, set[str]] = {}
    for line in _GROUPS.strip().splitlines():
        group = words(line)
        for stem in group:
            found.setdefault(stem, set()).update(group - {stem})
    return {stem: frozenset(others) for stem, others in found.items()}
