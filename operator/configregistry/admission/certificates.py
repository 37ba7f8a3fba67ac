"""Certificates of the webhook: made, judged, and what API servers are to trust. Pure: time comes in, bytes go out.

Each certificate has an authority of its own, whose key is thrown away as soon as it has signed: there is then
nothing that could sign a second one, and to trust an old authority for some months more harms nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE: Final = timedelta(days=90)
RENEW_AT: Final = 2 / 3
"""Of the life of a certificate."""
SKEW: Final = timedelta(hours=1)
"""A certificate is valid since before it was made, for clocks that are behind."""


_NO_OTHER_USAGE: Final = {
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


class Pair(NamedTuple):
    """A serving certificate with its key, and the authority that signed it (empty where others know it). PEM."""

    authority: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return f"Pair(certificate={len(self.certificate)} bytes)"


def service_names(namespace: str, service: str) -> tuple[str, ...]:
    """The names by which an API server and others call a Service."""
    return (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}")


def make(names: Sequence[str], now: datetime, life: timedelta = LIFE) -> Pair:
    """A new pair for these DNS names and addresses."""
    start, end = now.astimezone(UTC) - SKEW, now.astimezone(UTC) + life
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own: of two authorities of one name a verifier may try the wrong one first.
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"configregistry-webhook-{serial:x}"[:64])])
    authority = (
        _builder(issuer, issuer, authority_key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, **_NO_OTHER_USAGE), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "configregistry-webhook")])
    certificate = (
        _builder(subject, issuer, key.public_key(), start, end)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=False, **_NO_OTHER_USAGE), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(_pem(authority), _pem(certificate), secret)


def problem(pair: Pair | None, names: Sequence[str], now: datetime) -> str | None:
    """Why a pair cannot be served under these names; None: it can."""
    if pair is None:
        return "there is none"
    try:
        authority = x509.load_pem_x509_certificate(pair.authority)
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError):
        return "it cannot be read"
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return "it is not of its authority"
    if key.public_key() != certificate.public_key():
        return "its key is another one's"
    if not all(_valid(each, now) for each in (authority, certificate)):
        return f"it is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"
    lacking = {_general(name) for name in names} - _names_of(certificate)
    return f"it is not for {', '.join(sorted(str(name.value) for name in lacking))}" if lacking else None


def is_due(pair: Pair, now: datetime) -> bool:
    """Whether it is time for the next one."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    made, end = certificate.not_valid_before_utc + SKEW, certificate.not_valid_after_utc
    return now >= made + (end - made) * RENEW_AT


def valid_until(pair: Pair) -> float:
    """When a certificate ends, in seconds since 1970."""
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()


def trusts(bundle: bytes, pair: Pair) -> bool:
    """Whether the authority of a pair is in a bundle."""
    known = set(_read(bundle))
    return all(each in known for each in _read(pair.authority))


def joined(bundles: Iterable[bytes], pairs: Iterable[Pair], now: datetime) -> bytes:
    """A bundle that trusts these as well. What stands in one of the bundles stays until it has expired.

    So whoever writes by an older Secret takes nothing away from what a newer one needs.
    """
    wanted = [each for pair in pairs for each in _read(pair.authority)]
    kept = [each for bundle in bundles for each in _read(bundle) if each.not_valid_after_utc > now]
    return b"".join(map(_pem, dict.fromkeys((*kept, *wanted))))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def _valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _read(bundle: bytes) -> list[x509.Certificate]:
    """The certificates of a bundle; what is none (a chart's placeholder) is nothing."""
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
