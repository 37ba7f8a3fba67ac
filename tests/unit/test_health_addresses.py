"""Which addresses are refused inside a cluster, in all the ways in which they can be written."""

from __future__ import annotations

import pytest

from configregistry.health.addresses import refusal


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%2", "link-local"),
        ("febf::1", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::", "link-local"),
        ("2002:7f00:1::1", "loopback"),
        ("fd00:ec2::254", "metadata service"),
        ("", "not an address"),
        ("localhost", "not an address"),
        ("127.1", "not an address"),
    ],
)
def test_refused(address: str, reason: str) -> None:
    assert refusal(address) == reason


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "8.8.8.8", "169.253.0.1", "128.0.0.1",
     "1.0.0.0", "fd00::1", "2001:db8::1", "fec0::1", "64:ff9b::10.0.0.1", "2002:a00:1::",
     "::ffff:10.0.0.1"],
)  # fmt: skip
def test_allowed(address: str) -> None:
    assert refusal(address) is None
