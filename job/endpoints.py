"""Where the SDKs may be sent: the operator names the hosts, and never one that hands out this machine's credentials."""

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from job.errors import BadSpec

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT")

# Cloud metadata services: whoever is sent there reads the machine's credentials as if they were data.
_METADATA_NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
_METADATA_NETWORKS = (
    ipaddress.ip_network("169.254.0.0/16"),  # link-local; nearly all of them
    ipaddress.ip_network("fe80::/10"),  # link-local
    ipaddress.ip_network("fd00:ec2::/32"),  # AWS over IPv6
    ipaddress.ip_network("100.100.100.200/32"),  # Alibaba
    ipaddress.ip_network("192.0.0.192/32"),  # Oracle
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in the last four bytes


def refuse_endpoints(env: Mapping[str, str]) -> None:
    """See that no endpoint in *env* is a link-local address or a metadata service, however it is written. Names are
    compared, not resolved: a look-up would cost seconds, and may answer differently the next time.

    Raises:
        BadSpec: one is, or is no http(s) URL.
    """
    for variable in ENDPOINTS:
        if endpoint := env.get(variable, "").strip():
            host = _host(variable, endpoint)
            address = _address(host)
            if host in _METADATA_NAMES or (address and any(address in network for network in _METADATA_NETWORKS)):
                raise BadSpec(f"{variable} names {host}, where machines keep their credentials.", "Name a real store.")


def _host(variable: str, endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise BadSpec(f"{variable} is not a URL.", "Give it as http(s)://host[:port].")  # it may hold a password
    return host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that *host* is, also as ``0xa9fea9fe``, ``2852039166`` or inside an IPv6 one; None for a name."""
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # reads what the C library reads; resolves nothing
    except OSError:
        pass
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address
