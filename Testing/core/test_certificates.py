import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from segviz_core.errors import InputError
from segviz_core.federation import certificates
from segviz_core.federation.node_log import explain


def handshake(folder: Path, certificate: bytes, key: bytes, *, trusted: bytes, name: str) -> None:
    """One TLS connection on loopback; raises what the client sees."""
    (folder / "server.crt").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)
    (folder / "ca.crt").write_bytes(trusted)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()


def test_server_certificate_is_trusted_under_its_names_only(tmp_path: Path) -> None:
    authority, authority_key = certificates.create_authority("study")
    certificate, key = certificates.create_server_certificate(authority, authority_key, host="127.0.0.1")
    handshake(tmp_path, certificate, key, trusted=authority, name="127.0.0.1")
    handshake(tmp_path, certificate, key, trusted=authority, name="localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        handshake(tmp_path, certificate, key, trusted=authority, name="elsewhere")


def test_server_certificate_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    authority, authority_key = certificates.create_authority("study")
    certificate, key = certificates.create_server_certificate(authority, authority_key, host="127.0.0.1")
    other, _ = certificates.create_authority("study")
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(tmp_path, certificate, key, trusted=other, name="127.0.0.1")


def test_certificate_that_has_ended_is_named_in_the_words_that_the_site_looks_for(tmp_path: Path) -> None:
    authority, authority_key = certificates.create_authority("study")
    certificate, key = certificates.create_server_certificate(authority, authority_key, host="127.0.0.1", days=0)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(tmp_path, certificate, key, trusted=authority, name="127.0.0.1")
    reason = explain(f"Exit Code: 305\n{caught.value}", returncode=1, worked_before=True)
    assert reason.message == "The coordinator's certificate has ended."


def test_public_key_is_read_without_its_comment() -> None:
    _, public = certificates.create_node_key()
    assert certificates.read_public_key(public + b" anna@hospital\n") == public


def test_server_certificate_takes_host_names_too(tmp_path: Path) -> None:
    authority, authority_key = certificates.create_authority("study")
    certificate, key = certificates.create_server_certificate(authority, authority_key, host="trial.example.org")
    for name in ("trial.example.org", "127.0.0.1"):  # the second is Flower's server behind the front
        handshake(tmp_path, certificate, key, trusted=authority, name=name)


def test_node_key_is_the_nist_curve_that_flower_signs_with() -> None:
    private, public = certificates.create_node_key()
    key = load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    assert isinstance(load_ssh_public_key(public), ec.EllipticCurvePublicKey)
    assert certificates.public_key(private) == public


def test_damaged_site_key_is_refused() -> None:
    private, _ = certificates.create_node_key()
    with pytest.raises(InputError, match="site key cannot be read"):
        certificates.public_key(private[:-60])


def test_fingerprints_tell_authorities_apart() -> None:
    first, _ = certificates.create_authority("study")
    second, _ = certificates.create_authority("study")
    assert len(certificates.fingerprint(first)) == 64
    assert certificates.fingerprint(first) != certificates.fingerprint(second)
    with pytest.raises(InputError, match="Expected a certificate"):
        certificates.fingerprint(b"no certificate")


def test_days_left_counts_down_to_the_end() -> None:
    authority, _ = certificates.create_authority("study", days=10)
    assert certificates.days_left(authority) == pytest.approx(10, abs=0.01)
    assert certificates.days_left(authority, now=datetime.now(UTC) + timedelta(days=11)) < 0


def test_secret_is_readable_by_its_user_alone(tmp_path: Path) -> None:
    certificates.write_secret(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
