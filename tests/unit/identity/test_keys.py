"""The directory of keys: private, turning, and shared between processes."""

from __future__ import annotations

import os

from xenith.core.clock import ManualClock
from xenith.identity.keys import KEY_LIFE_S, TOKEN_KEYS_MAX, TokenKeys, credential_key


def test_keys_are_made_once_and_only_we_may_read_them(tmp_path):
    clock = ManualClock()
    token = TokenKeys(tmp_path / "keys", clock).encrypt(b"x")
    files = sorted((tmp_path / "keys" / "tokens").iterdir())
    assert [path.name for path in files] == ["0", "1"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert TokenKeys(tmp_path / "keys", clock).decrypt(token) == b"x"


def test_a_turn_keeps_tokens_until_their_key_is_dropped(tmp_path):
    keys = TokenKeys(tmp_path, ManualClock())
    token = keys.encrypt(b"x")
    keys.rotate()
    assert keys.decrypt(token) == b"x"
    for _ in range(TOKEN_KEYS_MAX):
        keys.rotate()
    assert keys.decrypt(token) is None
    assert len(list((tmp_path / "tokens").iterdir())) == TOKEN_KEYS_MAX


def test_keys_in_memory_turn_too():
    keys = TokenKeys(None, ManualClock())
    token = keys.encrypt(b"x")
    keys.rotate()
    assert keys.decrypt(token) == b"x"
    for _ in range(TOKEN_KEYS_MAX):
        keys.rotate()
    assert keys.decrypt(token) is None


async def test_another_process_knows_the_next_key_at_once_and_later_ones_in_seconds(tmp_path):
    clock = ManualClock()
    one, other = TokenKeys(tmp_path, clock), TokenKeys(tmp_path, clock)
    one.rotate()
    assert other.decrypt(one.encrypt(b"staged")) == b"staged"
    one.rotate()
    token = one.encrypt(b"new")
    assert other.decrypt(token) is None
    await clock.advance(6)
    assert other.decrypt(token) == b"new"


def test_an_old_key_is_replaced_at_start(tmp_path):
    clock = ManualClock()
    keys = TokenKeys(tmp_path, clock)
    made_at = clock.now() - KEY_LIFE_S - 1
    os.utime(tmp_path / "tokens" / "1", (made_at, made_at))
    keys.rotate_if_old()
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["0", "1", "2"]


def test_the_key_of_credentials_stays(tmp_path):
    sealed = credential_key(tmp_path).encrypt(b"x")
    assert credential_key(tmp_path).decrypt(sealed) == b"x"
    assert (tmp_path / "credentials").stat().st_mode & 0o777 == 0o600
