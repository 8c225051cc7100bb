"""The PostgreSQL that the tests ask for is private and theirs alone."""

import psycopg
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_a_database_is_empty_and_another_test_cannot_see_into_it(postgres_server):
    first, second = postgres_server.create(), postgres_server.create()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE mine (id int)")
    with psycopg.connect(second) as connection:
        found = connection.execute("SELECT to_regclass('mine')").fetchone()
    assert found == (None,)


def test_nobody_gets_in_without_the_password(fresh_postgres_url, postgres_server):
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(fresh_postgres_url.replace(postgres_server.password, "guess"))


def test_the_server_listens_on_loopback_only(postgres_url):
    with psycopg.connect(postgres_url) as connection:
        listens = connection.execute("SHOW listen_addresses").fetchone()
    assert listens == ("127.0.0.1",)
