"""Addresses that only this computer can reach."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address is that of this computer only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
