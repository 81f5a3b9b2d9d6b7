"""Certificates and keys of a study: its own authority, the server's certificate, one node key per site.

Everything is ECDSA on P-384: Flower signs a node's messages with a NIST curve (flower.md section 2), and TLS takes the
same. The certificates start a day early, because clocks of hospitals differ.
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from segviz_core.atomic import replacing
from segviz_core.errors import InputError

AUTHORITY_DAYS, SERVER_DAYS = 1825, 730
"""How long certificates are valid: a study ends before its authority; the server's is renewed on the way."""

_NEW_KIT = "Ask the coordinator for a new kit."


def create_authority(study: str, *, days: int = AUTHORITY_DAYS) -> tuple[bytes, bytes]:
    """A self-signed authority for one study: (certificate, private key), both PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"SegViz study {study}"[:64])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return certificate.public_bytes(Encoding.PEM), _private_pem(key)


def create_server_certificate(
    authority: bytes, authority_key: bytes, *, host: str, days: int = SERVER_DAYS
) -> tuple[bytes, bytes]:
    """A server certificate signed by the authority: (certificate, private key), PEM.

    It is valid for `host` (name or IP address), and on loopback, where the front reaches Flower's server.
    """
    issuer, issuer_key = _certificate(authority), load_pem_private_key(authority_key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _builder(_name(host[:64]), issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    return certificate.public_bytes(Encoding.PEM), _private_pem(key)


def create_node_key() -> tuple[bytes, bytes]:
    """A site's key pair: (private, public), both in OpenSSH format, as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def public_key(private: bytes) -> bytes:
    """The public half of a site's private key, in OpenSSH format.

    Raises:
        InputError: `private` is no ECDSA key.
    """
    try:
        key = load_ssh_private_key(private, None)
    except Exception as error:
        raise InputError("The site key cannot be read.", hint=_NEW_KIT) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("Expected an ECDSA site key, found another kind.", hint=_NEW_KIT)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def read_public_key(content: bytes) -> bytes:
    """A site's public key as it was sent, in the one form in which keys are compared (OpenSSH, without a comment).

    Raises:
        InputError: it is no public ECDSA key.
    """
    try:
        key = load_ssh_public_key(content.strip())
    except Exception as error:
        raise InputError(
            "Expected the public key of a site, found other content.", hint="The site makes it: site key"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError("Expected an ECDSA public key, found another kind.", hint="The site makes it: site key")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def write_secret(path: Path, content: bytes) -> None:
    """Write a key or certificate that only the user may read, in one step."""
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(content)


def fingerprint(certificate: bytes) -> str:
    """sha256 of a PEM certificate, as hexadecimal text.

    Raises:
        InputError: it is no certificate.
    """
    return _certificate(certificate).fingerprint(hashes.SHA256()).hex()


def days_left(certificate: bytes, *, now: datetime | None = None) -> float:
    """Days until a PEM certificate ends; negative once it has."""
    left = _certificate(certificate).not_valid_after_utc - (now or datetime.now(UTC))
    return left.total_seconds() / 86400


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InputError("Expected a certificate, found other content.") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative_names(host: str) -> list[x509.GeneralName]:
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    loopback = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return list(dict.fromkeys([name, *loopback]))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
