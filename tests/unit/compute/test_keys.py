"""Key material, with OpenSSH's own reading of it where that can be had."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from xenith.compute import keys
from xenith.core.errors import Invalid


@pytest.mark.slow
def test_a_made_key_reads_back_to_the_same_fingerprint():
    made = keys.make_ssh()
    assert keys.read_ssh(made.public_key).fingerprint == made.fingerprint
    assert made.private_key.startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert made.public_key.startswith("ssh-rsa ")


@pytest.mark.slow
def test_a_made_certificate_is_for_a_client_and_holds_ten_years_from_the_given_time():
    made = keys.make_x509("ü" * 200, now_s=1_700_000_000.5)
    known = x509.load_pem_x509_certificate(made.public_key.encode())
    usage = known.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert known.not_valid_before_utc.timestamp() == 1_700_000_000
    assert (known.not_valid_after_utc - known.not_valid_before_utc).days == 3650
    known.verify_directly_issued_by(known)


@pytest.mark.parametrize(
    "text", ["", "ssh-rsa", "ssh-rsa !!!", "x y z", "ssh-rsa AAAA\x00", "\ud7ff"]
)
def test_what_is_no_key_is_invalid(text):
    with pytest.raises(Invalid):
        keys.read_ssh(text)
    with pytest.raises(Invalid):
        keys.read_x509(text)
