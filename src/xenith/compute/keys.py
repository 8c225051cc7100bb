"""Key material of keypairs: made new, or read and fingerprinted as given. Pure but for chance.

Making an RSA key takes up to a second: callers put it on a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xenith.core.errors import Invalid

#: Source: nova's default; the least that all guests' SSH servers take and none finds slow.
RSA_BITS = 2048
#: Years that a generated certificate holds. Source: nova's ten.
CERTIFICATE_DAYS = 3650
#: Where Windows looks for a user's name in a certificate (userPrincipalName).
_UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")


class KeyMaterial(msgspec.Struct, frozen=True):
    """A public key with its fingerprint, and the private half if it was made here."""

    public_key: str
    fingerprint: str
    private_key: str | None = None


def read_ssh(public_key: str) -> KeyMaterial:
    """Read a public key as OpenSSH writes it.

    Raises:
        Invalid: it is none.
    """
    try:
        serialization.load_ssh_public_key(public_key.strip().encode())
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (ValueError, IndexError, UnsupportedAlgorithm, binascii.Error) as error:
        raise _wrong() from error
    return KeyMaterial(public_key, _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest()))


def read_x509(certificate: str) -> KeyMaterial:
    """Read a certificate in PEM.

    Raises:
        Invalid: it is none.
    """
    try:
        known = x509.load_pem_x509_certificate(certificate.encode())
        digest = known.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - what the API shows
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _wrong() from error
    return KeyMaterial(certificate, _colons(digest))


def make_ssh() -> KeyMaterial:
    """Make an RSA key for SSH. Takes up to a second."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    read = read_ssh(f"{public.decode()} Generated-by-Xenith")
    return KeyMaterial(read.public_key, read.fingerprint, _pem(private, is_traditional=True))


def make_x509(user: str, *, now_s: float) -> KeyMaterial:
    """Make a key and a certificate signed by itself, as Windows takes for sign-in over WinRM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    # A common name is at most 64 bytes, and an admin may name a user of any length.
    common = user.encode()[:64].decode(errors="ignore") or "-"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    since = datetime.fromtimestamp(int(now_s), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.OtherName(_UPN, _utf8(f"{common}@localhost"))]),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    read = read_x509(certificate.public_bytes(serialization.Encoding.PEM).decode())
    return KeyMaterial(read.public_key, read.fingerprint, _pem(private, is_traditional=False))


def _pem(private: rsa.RSAPrivateKey, *, is_traditional: bool) -> str:
    form = serialization.PrivateFormat
    return private.private_bytes(
        serialization.Encoding.PEM,
        form.TraditionalOpenSSL if is_traditional else form.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _utf8(text: str) -> bytes:
    """Write a DER UTF8String; the short form of length suffices below 128 bytes."""
    data = text.encode()
    assert len(data) < 128, "the long form of length is not written"
    return bytes((0x0C, len(data))) + data


def _colons(digest: str) -> str:
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _wrong() -> Invalid:
    return Invalid("Keypair data is invalid: failed to generate fingerprint")
