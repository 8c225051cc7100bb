"""A host's certificate: made at its first start, kept beside its journal, replaced on request.

Clients know a host by the SHA-256 of its certificate (a pin), or by a CA that signed another one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import ssl
import tempfile
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from xenith.xapi.faults import XapiFault

#: Days that a certificate of our own making holds. Source: xapi, ten years.
DAYS = 3650
#: Seconds that a client's clock may be behind ours.
SKEW_S = 3600.0


class Identity(NamedTuple):
    """A certificate chain and the key to its first, as PEM."""

    chain: bytes
    key: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """The host's own certificate."""
        return x509.load_pem_x509_certificates(self.chain)[0]

    @property
    def pin(self) -> str:
        """What clients know the host by: SHA-256 of the certificate's DER, in hex."""
        return pin_of(self.certificate)


def pin_of(certificate: x509.Certificate) -> str:
    """Give a certificate's SHA-256, in hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def make(name: str, address: str, *, now_s: float) -> Identity:
    """Make a certificate for a host, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.fromtimestamp(now_s, dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)] if _is_dns_name(name) else []
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    except ValueError:
        names.append(x509.DNSName(address))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(seconds=SKEW_S))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    return Identity(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _is_dns_name(name: str) -> bool:
    return name.isascii() and all(part.replace("-", "a").isalnum() for part in name.split("."))


def read(certificate: str, key: str, chain: str, *, now_s: float) -> Identity:
    """Take a certificate over from an operator.

    Raises:
        XapiFault: SERVER_CERTIFICATE_INVALID, SERVER_CERTIFICATE_KEY_INVALID,
            SERVER_CERTIFICATE_KEY_MISMATCH, SERVER_CERTIFICATE_EXPIRED,
            SERVER_CERTIFICATE_CHAIN_INVALID.
    """
    try:
        own = x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise XapiFault("SERVER_CERTIFICATE_INVALID") from None
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise XapiFault("SERVER_CERTIFICATE_KEY_INVALID") from None
    if _public(private.public_key()) != _public(own.public_key()):
        raise XapiFault("SERVER_CERTIFICATE_KEY_MISMATCH")
    now = dt.datetime.fromtimestamp(now_s, dt.UTC)
    if own.not_valid_after_utc < now:
        ended = own.not_valid_after_utc.strftime("%Y%m%dT%H:%M:%SZ")
        raise XapiFault("SERVER_CERTIFICATE_EXPIRED", now.strftime("%Y%m%dT%H:%M:%SZ"), ended)
    if chain.strip():
        _check_chain(own, chain)
    return Identity(f"{certificate.rstrip()}\n{chain.strip()}\n".encode(), key.encode())


def _check_chain(own: x509.Certificate, chain: str) -> None:
    try:
        issued = own
        for issuer in x509.load_pem_x509_certificates(chain.encode()):
            issued.verify_directly_issued_by(issuer)
            issued = issuer
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise XapiFault("SERVER_CERTIFICATE_CHAIN_INVALID") from None


def _public(key: object) -> bytes:
    written: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return written


def load_or_make(path: Path | None, name: str, address: str, *, now_s: float) -> Identity:
    """Give the certificate of a file, made if it is not there; None keeps nothing."""
    if path is not None and path.exists():
        text = path.read_bytes()
        key, marker, chain = text.partition(b"-----BEGIN CERTIFICATE-----")
        return Identity(marker + chain, key)
    made = make(name, address, now_s=now_s)
    keep(path, made)
    return made


def keep(path: Path | None, identity: Identity) -> None:
    """Write a certificate and its key to a file that only we can read."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.key.rstrip() + b"\n" + identity.chain)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def context(identity: Identity) -> ssl.SSLContext:
    """Make what a server speaks TLS with."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    load(made, identity)
    return made


def load(into: ssl.SSLContext, identity: Identity) -> None:
    """Have a server show another certificate from its next connection on."""
    # OpenSSL reads keys from files alone; this one is there for a moment, for us alone.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pem"
        path.touch(mode=0o600)
        path.write_bytes(identity.key.rstrip() + b"\n" + identity.chain)
        into.load_cert_chain(path)
