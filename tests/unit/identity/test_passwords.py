"""Hashes of passwords."""

from __future__ import annotations

from xenith.identity.passwords import Cost, Passwords

CHEAP = Cost(memory_kib=8, rounds=1)


async def test_a_password_is_right_only_for_its_own_hash():
    passwords = Passwords(CHEAP)
    hashed = await passwords.hash("correct")
    assert hashed.startswith("$argon2id$")
    assert await passwords.is_right("correct", hashed)
    assert not await passwords.is_right("wrong", hashed)
    assert not await passwords.is_right("correct", "no hash")
    passwords.close()


async def test_nobody_is_checked_like_somebody_and_never_right():
    passwords = Passwords(CHEAP)
    asked = []
    verify = passwords._hasher.verify
    passwords._hasher = type(
        "Spy", (), {"verify": lambda _, h, p: asked.append(h) or verify(h, p)}
    )()
    assert not await passwords.is_right("", None)
    (hashed,) = asked
    # The same parameters as a real hash: the library does the whole work before it says no.
    assert hashed.rpartition("$")[0].rpartition("$")[0] == "$argon2id$v=19$m=8,t=1,p=1"
    passwords.close()


async def test_the_usual_cost_is_what_owasp_asks_for():
    passwords = Passwords()
    assert "$m=19456,t=2,p=1$" in await passwords.hash("x")
    passwords.close()
