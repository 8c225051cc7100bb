import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.toolstack.storage.repository import FileRepository

MIB = 1024 * 1024


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(1))


@pytest.fixture
def opened(tmp_path, world):
    """Opens repositories, and closes them after the test."""
    held = []

    def open_repository(name="sr", **options):
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        options.setdefault("reserve_bytes", 0)
        repository = FileRepository(path, world=world, **options)
        held.append(repository)
        return repository

    yield open_repository
    for repository in held:
        repository.close()


@pytest.fixture
def sr(opened):
    return opened()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sr"
