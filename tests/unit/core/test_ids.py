"""Ids come from a source that a seed fixes."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from xenith.core.ids import Ids, derive_uuid, is_uuid
from xenith.core.world import World


def draw(ids):
    """Draw one of everything."""
    return [
        ids.uuid(),
        ids.hex(),
        ids.request_id(),
        ids.secret(),
        ids.uniform(),
        ids.below(1000),
    ]


def test_the_same_seed_replays_the_same_ids_secrets_and_chances():
    assert draw(Ids(7)) == draw(Ids(7))


def test_another_seed_gives_other_ids():
    assert draw(Ids(7)) != draw(Ids(8))


def test_without_a_seed_nothing_repeats():
    first, second = draw(Ids()), draw(Ids())
    assert not set(first[:4]) & set(second[:4])


def test_threads_are_given_different_ids():
    ids = Ids()
    with ThreadPoolExecutor(8) as threads:
        drawn = list(threads.map(lambda _: [ids.hex() for _ in range(2000)], range(8)))
    assert len({one for some in drawn for one in some}) == 16000


def test_a_child_process_is_given_other_ids():
    ids = Ids()
    ids.hex()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(into, ids.hex().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(out, 32).decode() != ids.hex()
    os.close(out)
    os.close(into)


def test_seed_zero_is_a_seed():
    assert draw(Ids(0)) == draw(Ids(0))


@pytest.mark.parametrize("seed", [None, 1])
def test_ids_are_version_4_uuids_in_each_apis_form(seed):
    ids = Ids(seed)
    dashed, plain, request = ids.uuid(), ids.hex(), ids.request_id()
    assert uuid.UUID(dashed).version == 4
    assert len(dashed) == 36
    assert uuid.UUID(plain).version == 4
    assert len(plain) == 32
    assert "-" not in plain
    assert request.startswith("req-")
    assert is_uuid(request[4:])


@pytest.mark.parametrize("seed", [None, 1])
def test_a_secret_has_at_least_the_bytes_asked_for_and_is_safe_in_a_url(seed):
    secret = Ids(seed).secret(32)
    assert len(secret) * 6 >= 32 * 8
    assert secret.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("seed", [None, 1])
def test_chance_stays_in_its_bounds(seed):
    ids = Ids(seed)
    assert all(0 <= ids.uniform() < 1 for _ in range(200))
    assert {ids.below(3) for _ in range(200)} == {0, 1, 2}


def test_names_in_another_order_or_split_elsewhere_derive_other_ids():
    assert derive_uuid("vm", "a") != derive_uuid("a", "vm")
    assert derive_uuid("vm", "a") != derive_uuid("vma")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 36,
        "{12345678-1234-4234-8234-123456789abc}",
        "urn:uuid:12345678-1234-4234-8234-123456789abc",
        "12345678-1234-4234-8234-123456789abg",
        "urn:12345678123442348234123456789abc",
        "1-2-3-4-5678123442348234123456789abc",
        "\u0661" * 32,
        "1-2345678123442348234123456789abc\n",
    ],
)
def test_what_only_looks_like_a_uuid_is_none(text):
    assert not is_uuid(text)


def test_a_world_is_real_unless_told_otherwise():
    assert World().ids.seed is None
    assert World(ids=Ids(3)).ids.uuid() == Ids(3).uuid()
