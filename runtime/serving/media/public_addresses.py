"""Tells the addresses that a server may connect to on behalf of strangers: public ones.

IANA's special-purpose registries (RFC 6890) as lists of their own, because `ipaddress.is_global`
differs between Python's versions and lets through what embeds an IPv4 address (NAT64, 6to4).
"""

import ipaddress

__all__ = ["is_public_address"]

#: Of IPv4: this network, private, shared (CGNAT), loopback, link-local, protocol assignments,
#: documentation, 6to4 relays, benchmarking, AS112, AMT, multicast, reserved and broadcast; and the
#: one public address that a cloud answers its virtual machines' own configuration on.
FORBIDDEN_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
)  # fmt: skip
#: The only part of IPv6 that is given out for global unicast. Outside are loopback, IPv4-mapped and
#: IPv4-compatible addresses, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48), unique local, link-local and
#: multicast ones.
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
#: Within it: protocol assignments with Teredo and ORCHID, documentation, 6to4, AS112, and the
#: second block for documentation.
FORBIDDEN_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
#: Interface identifiers of ISATAP, which embed an IPv4 address in any prefix: the last 64 bits
#: start with 0000:5efe or, for a globally unique address, 0200:5efe.
ISATAP = (0x00005EFE, 0x02005EFE)


def is_public_address(address: str) -> bool:
    """Return whether an address, as a resolver gives it, is one of the public internet.

    Args:
        address: in the usual notation; anything else, a scope (`fe80::1%eth0`) included, is not.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in FORBIDDEN_IPV4)
    if parsed.scope_id is not None or parsed not in GLOBAL_IPV6:
        return False
    if (int(parsed) >> 32) & 0xFFFFFFFF in ISATAP:
        return False
    return not any(parsed in network for network in FORBIDDEN_IPV6)
