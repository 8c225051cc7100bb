"""A cell's key signs and opens; its file is its own; nothing that is shown gives it away."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.cells.keys import CellKey, PublicKey
from xenith.core.errors import Forbidden, Invalid, NotFound

KEY = CellKey.derive(b"a")
OTHER = CellKey.derive(b"b")


def test_what_a_cell_signed_is_known_as_its_own():
    assert KEY.public.verify(b"data", KEY.sign(b"data"))


def test_other_data_another_signature_and_another_key_do_not_pass():
    signature = KEY.sign(b"data")
    assert not KEY.public.verify(b"date", signature)
    assert not KEY.public.verify(b"data", signature[:-1])
    assert not KEY.public.verify(b"data", b"")
    assert not OTHER.public.verify(b"data", signature)


def test_a_public_key_of_another_length_verifies_nothing_and_seals_nothing():
    short = PublicKey(signing=b"x", sealing=b"x")
    assert not short.verify(b"data", KEY.sign(b"data"))
    with pytest.raises(Invalid, match="no usable key"):
        short.seal(b"secret")
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(short), type=PublicKey)


def test_a_sealing_key_that_makes_every_exchange_equal_is_refused():
    with pytest.raises(Invalid, match="no usable key"):
        PublicKey(signing=KEY.public.signing, sealing=bytes(32)).seal(b"secret")


@given(secret=st.binary(max_size=200))
def test_a_sealed_secret_is_opened_by_its_cell_alone(secret):
    sealed = KEY.public.seal(secret)
    assert KEY.open(sealed) == secret
    assert secret not in sealed or len(secret) < 4
    with pytest.raises(Invalid, match="not sealed for"):
        OTHER.open(sealed)


def test_what_an_earlier_program_derived_and_sealed_is_opened_by_this_one():
    assert KEY.public.fingerprint() == "8328d24289b76a0a"
    sealed = bytes.fromhex(
        "01ef7dca4d25b20a2fc76f8d0254347d574e9c63c69897997eabef3b96bb3c116f"
        "6a3975e08b0cd81ffd4bfa13bca90d2cf5544a270fa6"
    )
    assert KEY.open(sealed) == b"secret"


def test_the_same_secret_is_never_sealed_alike():
    assert KEY.public.seal(b"secret") != KEY.public.seal(b"secret")


def test_a_sealed_secret_with_any_bit_changed_or_any_byte_missing_does_not_open():
    sealed = KEY.public.seal(b"secret")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        for wrong in (bytes(changed), sealed[:at]):
            with pytest.raises(Invalid):
                KEY.open(wrong)


@given(sealed=st.binary(max_size=120))
def test_bytes_of_any_kind_do_not_open(sealed):
    for wrong in (sealed, b"\x01" + sealed):
        with pytest.raises(Invalid):
            KEY.open(wrong)


def test_a_key_is_derived_alike_from_one_seed_and_otherwise_is_new():
    assert CellKey.derive(b"a").public == KEY.public
    assert CellKey.create().public != CellKey.create().public


def test_signing_and_sealing_keys_have_nothing_in_common():
    assert KEY.public.signing != KEY.public.sealing


def test_a_key_survives_in_its_file(tmp_path: Path):
    path = tmp_path / "deep" / "cell.key"
    made = CellKey.load_or_create(path)
    assert CellKey.load(path).public == made.public
    assert CellKey.load_or_create(path).public == made.public
    assert made.public.verify(b"x", CellKey.load(path).sign(b"x"))


def test_the_file_is_for_its_owner_alone_and_stands_alone(tmp_path: Path):
    CellKey.load_or_create(tmp_path / "cell.key")
    assert [path.name for path in tmp_path.iterdir()] == ["cell.key"]
    assert stat.S_IMODE((tmp_path / "cell.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_reach_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "cell.key"
    CellKey.load_or_create(path)
    path.chmod(mode)
    for read in (CellKey.load, CellKey.load_or_create):
        with pytest.raises(Forbidden, match=r"cell\.key"):
            read(path)


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(NotFound, match=r"cell\.key"):
        CellKey.load(tmp_path / "cell.key")


@pytest.mark.parametrize(
    "text",
    ["", "x", "xenith-cell-key-1", "xenith-cell-key-1 AAAA", "xenith-cell-key-1 é", "\0\xff"],
)
def test_a_file_that_holds_no_key_is_refused_and_left_alone(tmp_path: Path, text: str):
    path = tmp_path / "cell.key"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(Invalid, match="no cell key"):
        CellKey.load_or_create(path)
    assert path.read_text() == text


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(Invalid, match="no file"):
            CellKey.load(path)


def test_a_key_is_saved_once_and_never_over_another(tmp_path: Path):
    path = tmp_path / "cell.key"
    KEY.save(path)
    KEY.save(path)
    assert CellKey.load(path).public == KEY.public
    with pytest.raises(Invalid, match="another key"):
        OTHER.save(path)
    assert CellKey.load(path).public == KEY.public


def test_nothing_that_is_shown_or_copied_gives_the_key_away(tmp_path: Path):
    path = tmp_path / "cell.key"
    KEY.save(path)
    secret = path.read_text().split()[1]
    assert secret not in repr(KEY)
    assert repr(KEY) == f"CellKey({KEY.public.fingerprint()})"
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(KEY)


def test_fingerprints_are_short_and_differ():
    assert len(KEY.public.fingerprint()) == 16
    assert KEY.public.fingerprint() != OTHER.public.fingerprint()
