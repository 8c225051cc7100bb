"""Choosing a microversion from headers, and saying which one was used.

Source: the API microversion guidelines, and Compute's older header of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from xenith.core.errors import Invalid, NotAcceptable
from xenith.http.endpoint import Service, Version

_FORM = re.compile(r"^([1-9]\d{0,3})\.(0|[1-9]\d{0,3})$")


def choose(service: Service[object], headers: Mapping[str, str]) -> Version | None:
    """Give the version that a request asks for, or None for a service without versions.

    Raises:
        Invalid: the value has not the form of a version.
        NotAcceptable: the version is outside the service's range.
    """
    if service.min_version is None or service.max_version is None:
        return None
    text = _own_value(headers.get("openstack-api-version", ""), service.version_word)
    if text is None and service.legacy_version_header:
        text = headers.get(service.legacy_version_header.lower())
    if text is None:
        return service.min_version
    text = text.strip()
    if text == "latest":
        return service.max_version
    match = _FORM.match(text)
    if match is None:
        raise Invalid(
            f"API Version String {text[:40]} is of invalid format. Must be of format "
            "MajorNum.MinorNum.",
            kind="InvalidAPIVersionString",
        )
    version = (int(match[1]), int(match[2]))
    if not service.min_version <= version <= service.max_version:
        raise NotAcceptable(
            f"Version {text} is not supported by the API. Minimum is "
            f"{written(service.min_version)} and maximum is {written(service.max_version)}."
        )
    return version


def _own_value(header: str, word: str) -> str | None:
    for part in header.split(","):
        name, _, value = part.strip().partition(" ")
        if name == word and value:
            return value
    return None


def written(version: Version) -> str:
    """Write a version: ``2.96``."""
    return f"{version[0]}.{version[1]}"


def answer_headers(service: Service[object], version: Version) -> list[tuple[bytes, bytes]]:
    """Give the headers that say which version was used."""
    text = written(version)
    headers = [
        (b"openstack-api-version", f"{service.version_word} {text}".encode()),
        (b"vary", b"OpenStack-API-Version"),
    ]
    if service.legacy_version_header:
        headers.append((service.legacy_version_header.lower().encode(), text.encode()))
        headers.append((b"vary", service.legacy_version_header.encode()))
    return headers
