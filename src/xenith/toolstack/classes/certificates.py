"""Certificates: those that hosts show, and those of CAs that a pool trusts.

Source: XenAPI classes host and pool, their certificate calls, and class Certificate.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from xenith.toolstack import tls
from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Names that are safe as those of files. Source: xapi, certificate names.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


def install(host: HostServer, identity: tls.Identity) -> None:
    """Have a host show a certificate, and say so in its records."""
    host.identify(identity)
    for ref, record in list(host.objects.all("Certificate").items()):
        if record["host"] == host.ref and record["type"] == "host":
            host.objects.delete("Certificate", ref)
    made = _record(host, identity.certificate, kind="host", name="", of=host.ref)
    host.objects.update("host", host.ref, certificates=[made], https_only=True)


def _record(
    host: HostServer, certificate: x509.Certificate, *, kind: str, name: str, of: str
) -> str:
    der = certificate.public_bytes(serialization.Encoding.DER)
    sha256 = _spaced(hashlib.sha256(der).hexdigest())
    return host.objects.create(
        "Certificate",
        name=name,
        type=kind,
        host=of,
        not_before=_date(certificate.not_valid_before_utc),
        not_after=_date(certificate.not_valid_after_utc),
        fingerprint=sha256,
        fingerprint_sha256=sha256,
        fingerprint_sha1=_spaced(hashlib.sha1(der, usedforsecurity=False).hexdigest()),
    )


def _spaced(digest: str) -> str:
    return ":".join(digest[at : at + 2].upper() for at in range(0, len(digest), 2))


def _date(time: dt.datetime) -> str:
    return time.strftime("%Y%m%dT%H:%M:%SZ")


@method("host.get_server_certificate", is_async=True)
def get_server_certificate(host: HostServer, ref: str) -> str:
    """Give the certificate that a host shows, as PEM. Source: host.get_server_certificate."""
    host.objects.get("host", ref)
    identity = host.pool.member(ref).identity
    if identity is None:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"host {ref} does not speak TLS")
    return identity.certificate.public_bytes(serialization.Encoding.PEM).decode()


@method("host.install_server_certificate", is_async=True)
def install_server_certificate(
    host: HostServer, ref: str, certificate: str, private_key: str, chain: str = ""
) -> None:
    """Have a host show another certificate. Source: XenAPI host.install_server_certificate."""
    host.objects.get("host", ref)
    member = host.pool.member(ref)
    if member.identity is None:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"host {ref} does not speak TLS")
    now_s = host.world.clock.now()
    install(member, tls.read(certificate, private_key, chain, now_s=now_s))


@method("host.refresh_server_certificate", is_async=True)
def refresh_server_certificate(host: HostServer, ref: str) -> None:
    """Make a host another certificate of its own. Source: host.refresh_server_certificate."""
    host.objects.get("host", ref)
    member = host.pool.member(ref)
    if member.identity is None:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"host {ref} does not speak TLS")
    address = member.address.rpartition(":")[0]
    install(member, tls.make(member.name, address, now_s=host.world.clock.now()))


@method("pool.certificate_install", is_async=True)
@method("pool.install_ca_certificate", is_async=True)
def certificate_install(host: HostServer, name: str, text: str) -> None:
    """Note a CA that the pool trusts. Source: XenAPI pool.install_ca_certificate."""
    if _NAME.fullmatch(name) is None:
        raise XapiFault("CERTIFICATE_NAME_INVALID", name[:255])
    if _find(host, name) is not None:
        raise XapiFault("CERTIFICATE_ALREADY_EXISTS", name)
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise XapiFault("CERTIFICATE_CORRUPT", name) from None
    _record(host, certificate, kind="ca", name=name, of="OpaqueRef:NULL")


@method("pool.certificate_uninstall", is_async=True)
@method("pool.uninstall_ca_certificate", is_async=True)
def certificate_uninstall(host: HostServer, name: str) -> None:
    """Trust a CA no more. Source: XenAPI pool.uninstall_ca_certificate."""
    found = _find(host, name)
    if found is None:
        raise XapiFault("CERTIFICATE_DOES_NOT_EXIST", name[:255])
    host.objects.delete("Certificate", found)


@method("pool.certificate_list", is_async=True)
def certificate_list(host: HostServer) -> list[str]:
    """List the names of the CAs that the pool trusts. Source: XenAPI pool.certificate_list."""
    rows = host.objects.all("Certificate").values()
    return sorted(record["name"] for record in rows if record["type"] == "ca")


@method("pool.certificate_sync", is_async=True)
def certificate_sync(host: HostServer) -> None:
    """Bring all hosts to trust the same CAs: they share the records. Source: XenAPI."""
    host.flush()


@method("pool.enable_tls_verification")
def enable_tls_verification(host: HostServer) -> None:
    """Have hosts check each other's certificates, which ours do by their pins. Source: XenAPI."""
    _verify(host, is_on=True)


@method("host.emergency_disable_tls_verification")
def emergency_disable_tls_verification(host: HostServer) -> None:
    """Say that this host's peers are not to check it. Source: XenAPI."""
    host.objects.update("host", host.ref, tls_verification_enabled=False)


def _verify(host: HostServer, *, is_on: bool) -> None:
    host.objects.update("pool", host.objects.only("pool"), tls_verification_enabled=is_on)
    for ref in host.objects.all("host"):
        host.objects.update("host", ref, tls_verification_enabled=is_on)


def _find(host: HostServer, name: str) -> str | None:
    for ref, record in host.objects.all("Certificate").items():
        if record["type"] == "ca" and record["name"] == name:
            return ref
    return None
