"""Which network addresses a job may reach: public ones, and private ones only when the installation names them.

Owns the defence against requests that are sent to the machine's own network. Sends nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

__all__ = ["AddressRefused", "checked_addresses"]

_IPv6 = ipaddress.IPv6Address


class AddressRefused(Exception):
    """The host has no address that may be reached; the text says why and what to set."""


def checked_addresses(host: str, port: int, allow_private: Sequence[str]) -> list[str]:
    """Return the addresses of `host`, each one allowed; connect to these and never to the name.

    One private address among several refuses the host: a name that points both ways is how such checks are passed by.

    Args:
        host: name or literal address.
        port: for the look-up.
        allow_private: networks (CIDR) that are allowed though they are not public.

    Raises:
        AddressRefused: the name is unknown, or an address is not public and not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"the host {host!r} has no address: {error}") from error
    networks = [ipaddress.ip_network(network, strict=False) for network in allow_private]
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        address = _unwrapped(ipaddress.ip_address(text.split("%", 1)[0]))
        named = any(address.version == network.version and address in network for network in networks)
        if not named and (not address.is_global or address.is_multicast):
            raise AddressRefused(
                f"the host {host!r} is {address}, which is not a public address; "
                "allow its network for API sources in the settings, or use another endpoint"
            )
    return addresses


def _unwrapped(address: ipaddress.IPv4Address | _IPv6) -> ipaddress.IPv4Address | _IPv6:
    """Return the IPv4 address inside an IPv6 one (mapped, 6to4, NAT64): it is what would be reached."""
    if isinstance(address, _IPv6):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
