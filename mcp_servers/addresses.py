"""Classification of IP addresses as public or not, including IPv6 forms that embed an IPv4 address.

The tables are the IANA special-purpose address registries (RFC 6890, RFC 8190) and the addresses of cloud metadata
services. Python's own `is_global` depends on the interpreter's version: 3.11 treats several of these as public.
"""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BLOCKED_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's WireServer, in the public range
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""Addresses that IANA has allocated for hosts; all others are blocked unless they embed an IPv4 address."""
_BLOCKED_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""Upper half of the interface identifiers that carry an IPv4 address (RFC 5214)."""


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet; an embedded IPv4 address is checked too."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in _BLOCKED_V4)
    if address.ipv4_mapped is not None:
        return False  # no public name resolves to an IPv4-mapped address
    if address in _NAT64:  # a network without IPv4 reaches IPv4 hosts through NAT64
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address not in _GLOBAL_V6 or any(address in block for block in _BLOCKED_V6):
        return False
    return (int(address) >> 32) & 0xFFFF_FFFF not in _ISATAP
