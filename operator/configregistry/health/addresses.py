"""Which addresses a process inside a cluster must not be talked into asking.

Whoever may write a spec may name any URL; the program's own node, its own ports and the cloud's
metadata service are not theirs to ask. Pure: it must never resolve a name, only judge the address
that is about to be connected to.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_NOWHERE: Final = ip_network("0.0.0.0/8")
"""Linux takes 0.0.0.0 for this host; the rest of "this network" has no use either."""

_METADATA: Final = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
"""Metadata services that do not answer on a link-local address: of AWS and Google by IPv6, of Alibaba, of Azure's
host (which gives certificates and settings to any process of its machines), of Oracle."""

_CARRIERS: Final = (
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("64:ff9b:1::/48"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("2002::/16"), 80),
)
"""IPv6 networks that carry an IPv4 address and its shift: NAT64, IPv4-compatible, IPv4-translated (SIIT), 6to4."""


def refusal(address: str) -> str | None:
    """Why an address may not be asked; None when it may. What is no address at all may not."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an address"
    return _refusal(parsed)


def _refusal(address: IPv4Address | IPv6Address) -> str | None:
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_unspecified or address in _NOWHERE:
        return "unspecified"
    if address in _METADATA:
        return "metadata service"
    if isinstance(address, IPv6Address):
        return next((reason for inner in _carried(address) if (reason := _refusal(inner))), None)
    return None


def _carried(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that a translator or the kernel itself would make of an IPv6 one."""
    found = [IPv4Address(int(address) >> shift & 0xFFFFFFFF) for net, shift in _CARRIERS if address in net]
    if address.ipv4_mapped is not None:
        found.append(address.ipv4_mapped)
    if address.teredo is not None:
        found += address.teredo
    return found
