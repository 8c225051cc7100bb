"""What a broker's owner does: its certificate, and an account of least rights for each link.

A neighbour's account may write to the exchanges of the topics it publishes, read the queues it
is given, and nothing else; so it makes no queues, which the owner's own bus does for it. It is
reached over the management API, on loopback and under TLS.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xenith.bus.address import exchange_name, queue_name
from xenith.bus.port import Priority
from xenith.core.clock import Clock
from xenith.core.errors import Unavailable

#: An account is made in some 20 ms; a broker that starts answers after seconds.
CALL_TIMEOUT_S = 10.0
#: What one link may open: a connection and a few that are not yet known to be dead.
LINK_CONNECTIONS_MAX = 8
LINK_CHANNELS_MAX = 256
#: Nobody renews a private certificate by hand; the directory is made anew sooner.
CERTIFICATE_DAYS = 3650
#: How far a neighbour's clock may be behind.
CLOCK_SLACK_DAYS = 1
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_NOTHING = "^$"


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a server's identity, and the authority that its clients are to trust."""

    ca: bytes
    ca_path: Path
    certificate_path: Path
    key_path: Path


def make_tls(directory: Path, clock: Clock, *, names: Iterable[str] = LOOPBACK_NAMES) -> Tls:
    """Make an authority and one certificate of a server, and forget the authority's key."""
    now = dt.datetime.fromtimestamp(clock.now(), dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("Xenith broker authority")
    ca = (
        _begin(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        _begin(_name("Xenith broker"), ca_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([*map(_alternative, names)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_text = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(directory / "ca.pem", ca.public_bytes(pem))
    write_private(directory / "server.pem", certificate.public_bytes(pem))
    write_private(directory / "server.key", key_text)
    return open_tls(directory)


def open_tls(directory: Path) -> Tls:
    """Read what ``make_tls`` made."""
    return Tls(
        ca=(directory / "ca.pem").read_bytes(),
        ca_path=directory / "ca.pem",
        certificate_path=directory / "server.pem",
        key_path=directory / "server.key",
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


class _User(msgspec.Struct, frozen=True):
    """An account, as the management tells of it; the rest is not looked at."""

    name: str


class BrokerAdmin:
    """Makes and removes accounts and queues over the management API."""

    def __init__(self, url: str, *, user: str, password: str, tls_ca: bytes) -> None:
        self._user = user
        self._client = httpx2.AsyncClient(
            base_url=url,
            auth=(user, password),
            verify=ssl.create_default_context(cadata=tls_ca.decode()),
            timeout=CALL_TIMEOUT_S,
            trust_env=False,
        )

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.aclose()

    async def add_virtual_host(self, name: str) -> None:
        """Make a virtual host in which the owner may do everything; nothing when it is there."""
        await self._call("PUT", "vhosts", name)
        await self._permit(self._user, name, configure=".*", write=".*", read=".*")

    async def add_link_account(
        self,
        user: str,
        password: str,
        *,
        publishes: Iterable[str] = (),
        reads: Iterable[tuple[str, str]] = (),
        virtual_host: str = "/",
    ) -> None:
        """Make an account that publishes to topics and reads queues of (topic, name), no more.

        Made again, it has the new password and the new rights.
        """
        exchanges = [exchange_name(topic) for topic in publishes]
        queues = [queue_name(topic, name, p) for topic, name in reads for p in Priority]
        await self._call("PUT", "users", user, body={"password": password, "tags": ""})
        for limit, most in (
            ("max-connections", LINK_CONNECTIONS_MAX),
            ("max-channels", LINK_CHANNELS_MAX),
        ):
            await self._call("PUT", "user-limits", user, limit, body={"value": most})
        await self._permit(
            user, virtual_host, configure=_NOTHING, write=_any_of(exchanges), read=_any_of(queues)
        )

    async def list_accounts(self) -> list[str]:
        """List the names of all accounts, of the owner and others too."""
        found = await self._call("GET", "users")
        try:
            return [each.name for each in msgspec.json.decode(found, type=list[_User])]
        except msgspec.DecodeError as error:
            raise Unavailable(f"the broker's accounts cannot be read: {error}") from error

    async def remove_account(self, user: str) -> None:
        """Remove an account and end its connections; nothing when it is not there."""
        await self._call("DELETE", "users", user)

    async def remove_queue(self, topic: str, name: str, *, virtual_host: str = "/") -> None:
        """Remove the queues of a name with all that they hold; nothing when they are not there."""
        for priority in Priority:
            await self._call("DELETE", "queues", virtual_host, queue_name(topic, name, priority))

    async def _permit(
        self, user: str, virtual_host: str, *, configure: str, write: str, read: str
    ) -> None:
        rights = {"configure": configure, "write": write, "read": read}
        await self._call("PUT", "permissions", virtual_host, user, body=rights)

    async def _call(self, method: str, *path: str, body: dict[str, Any] | None = None) -> bytes:
        url = "/api/" + "/".join(quote(part, safe="") for part in path)
        sent = None if method == "GET" else body or {}
        try:
            answer = await self._request(method, url, sent)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the broker's management does not answer: {error!r}") from error
        if answer.is_error and (answer.status_code, method) != (404, "DELETE"):
            raise Unavailable(
                f"the broker refused {method} {url}: {answer.status_code} {answer.text[:200]}"
            )
        return answer.content

    async def _request(self, method: str, url: str, sent: dict[str, Any] | None) -> httpx2.Response:
        try:
            return await self._client.request(method, url, json=sent)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            # The broker ends a kept connection when it pleases, above all after a refusal, and
            # what was on its way by then had no answer. Every call may be made twice.
            return await self._client.request(method, url, json=sent)


def _any_of(names: list[str]) -> str:
    """Write the pattern that these names match, and nothing else."""
    return "^(" + "|".join(map(re.escape, names)) + ")$" if names else _NOTHING


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=CLOCK_SLACK_DAYS))
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
