"""The store against a plain model, and where ours is of its own mind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.xenstore import Connection, Permission, Store, XenstoreError, control_connection
from xenith.xenstore.nodes import READ, WRITE
from xenith.xenstore.requests import answer
from xenith.xenstore.wire import Frame, Op

HOME = "/local/domain/3"


@pytest.fixture
def store():
    made = Store()
    tool = control_connection(made)
    for domid in (3, 4):
        made.create_domain(domid)
        tool.mkdir(f"/local/domain/{domid}/data")
        tool.set_perms(f"/local/domain/{domid}/data", [Permission(domid, 0)])
        made.introduce(domid)
    return made


def guest(store, domid=3, heard=None):
    def hear(path, token):
        heard.append((path, token))

    return Connection(store, store.domains[domid], hear)


def names():
    return st.sampled_from(["a", "b", "c"])


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "mkdir", "rm"]),
        st.lists(names(), min_size=1, max_size=4).map("/".join),
        st.binary(max_size=3),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(before=ACTIONS, within=ACTIONS, is_commit=st.booleans())
def test_the_tree_is_as_a_plain_dictionary_s(before, within, is_commit):
    store = Store()
    tool = control_connection(store)
    model = {"": b""}
    _act(tool, model, before, 0)
    number = tool.transaction_start()
    changed = dict(model)
    _act(tool, changed, within, number)
    assert _tree(tool, number) == changed
    assert _tree(tool, 0) == model, "nobody else sees what is not committed"
    tool.transaction_end(number, is_commit=is_commit)
    assert _tree(tool, 0) == (changed if is_commit else model)
    assert store.check_whole() == []


def _act(tool, model, actions, number):
    tool.mkdir("/m", transaction_id=number)
    for kind, path, value in actions:
        above = [path.rsplit("/", count)[0] for count in range(1, path.count("/") + 1)]
        if kind == "rm":
            if above and above[0] not in model:
                with pytest.raises(XenstoreError, match="ENOENT"):
                    tool.rm(f"/m/{path}", transaction_id=number)
            else:
                tool.rm(f"/m/{path}", transaction_id=number)
            for key in [key for key in model if f"{key}/".startswith(f"{path}/")]:
                del model[key]
            continue
        for key in above:
            model.setdefault(key, b"")
        if kind == "write":
            tool.write(f"/m/{path}", value, transaction_id=number)
            model[path] = value
        else:
            tool.mkdir(f"/m/{path}", transaction_id=number)
            model.setdefault(path, b"")


def _tree(tool, number):
    try:
        tool.read("/m", transaction_id=number)
    except XenstoreError:
        return {"": b""}
    found, waiting = {}, [""]
    while waiting:
        path = waiting.pop()
        node = tool.directory(f"/m/{path}".rstrip("/"), transaction_id=number)
        found[path] = node.value
        waiting += [f"{path}/{name}".lstrip("/") for name in node.children]
    return found


def test_a_guest_cannot_leave_its_tree(store):
    ours, tool = guest(store), control_connection(store)
    tool.write("/local/domain/4/data/secret", b"s")
    for path in ("/", "/tool", "/local", "/local/domain/4", "/local/domain/4/data/secret"):
        for attempt in (
            lambda path=path: ours.read(path),
            lambda path=path: ours.write(path, b"x"),
            lambda path=path: ours.mkdir(f"{path}/x".replace("//", "/")),
            lambda path=path: ours.rm(path),
            lambda path=path: ours.directory(path),
            lambda path=path: ours.get_perms(path),
            lambda path=path: ours.set_perms(path, [Permission(3, READ | WRITE)]),
        ):
            with pytest.raises(XenstoreError, match="EACCES"):
                attempt()
    for path in ("../4/data/secret", "data/../../4", "./x", "data//x"):
        with pytest.raises(XenstoreError, match="EINVAL"):
            ours.read(path)
    assert tool.read("/local/domain/4/data/secret") == b"s"


def test_a_guest_hears_nothing_of_what_it_cannot_read(store):
    heard = []
    ours, tool = guest(store, heard=heard), control_connection(store)
    for path in ("/", "/local/domain/4", "@introduceDomain", "@releaseDomain", "@other"):
        ours.watch(path, b"t")
    tool.write("/local/domain/4/data/secret", b"s")
    tool.write("/tool/x", b"s")
    tool.rm("/local/domain/4")
    store.release(4)
    store.create_domain(5)
    store.introduce(5)
    assert heard == []
    tool.write(f"{HOME}/data/mine", b"")
    assert heard == [(f"{HOME}/data/mine", b"t")]


def test_a_guest_may_not_give_itself_a_special_watch(store):
    ours = guest(store)
    for name, refused in (("@introduceDomain", b"EACCES\0"), ("@nothing", b"EINVAL\0")):
        frame = Frame(Op.SET_PERMS, 1, 0, f"{name}\0n3\0".encode())
        reply, _ = answer(ours, frame)
        assert (reply.op, reply.payload) == (Op.ERROR, refused)


@pytest.mark.parametrize("op", [Op.READ, Op.DIRECTORY, Op.MKDIR, Op.RM, Op.GET_PERMS, Op.WRITE])
@pytest.mark.parametrize("payload", [b"", b"data", b"\0", b"data\0x\0"])
def test_payloads_that_are_none(store, op, payload):
    reply, _ = answer(guest(store), Frame(op, 1, 0, payload))
    is_value = op == Op.WRITE and payload == b"data\0x\0"
    assert reply.payload == (b"OK\0" if is_value else b"EINVAL\0")


def test_a_watch_may_say_how_deep(store):
    heard = []
    ours, tool = guest(store, heard=heard), control_connection(store)
    frame = Frame(Op.WATCH, 1, 0, b"data\0t\x001\0")
    reply, first = answer(ours, frame)
    first()
    assert reply.payload == b"OK\0"
    for path in ("a/b/c", "a/b", "a", ""):
        tool.write(f"{HOME}/data/{path}".rstrip("/"), b"1")
    assert heard == [("data", b"t"), ("data/a", b"t"), ("data", b"t")]


def test_a_directory_as_deep_as_may_be_goes_in_one_stroke(store):
    ours, tool = guest(store), control_connection(store)
    deep = "data/" + "/".join(["a"] * 900)
    ours.write(deep, b"")
    assert store.domains[3].node_count == 901
    ours.rm("data/a")
    assert tool.directory(f"{HOME}/data").children == ()
    assert store.domains[3].node_count == 1


def test_a_domain_s_number_is_not_its_successor_s(store):
    ours, tool = guest(store), control_connection(store)
    ours.write("data/shared", b"s")
    ours.set_perms("data/shared", [Permission(3, 0), Permission(4, READ)])
    assert guest(store, 4).read(f"{HOME}/data/shared") == b"s"
    store.release(4)
    store.create_domain(4)
    store.introduce(4)
    for _ in range(2):
        with pytest.raises(XenstoreError, match="EACCES"):
            guest(store, 4).read(f"{HOME}/data/shared")
        tool.write(f"{HOME}/data/shared", b"again")


def test_one_stands_for_another_no_longer_than_that_lives(store):
    ours = guest(store)
    store.domains[3].connection = ours
    ours.target = store.domains[4]
    assert ours.read("/local/domain/4/data") == b""
    store.release(4)
    store.create_domain(4)
    tool = control_connection(store)
    tool.mkdir("/local/domain/4/data")
    tool.set_perms("/local/domain/4/data", [Permission(4, 0)])
    with pytest.raises(XenstoreError, match="EACCES"):
        ours.read("/local/domain/4/data")


def test_the_memory_quota_holds_transactions_and_watches_too(store):
    ours = guest(store)
    store.quotas.memory_bytes = 20_000
    ours.write("data/x", b"x" * 1800)
    numbers = [ours.transaction_start() for _ in range(11)]

    def write_in_all():
        for number in numbers:
            ours.write("data/x", b"y" * 1900, transaction_id=number)

    def watch_all():
        for number in range(100):
            ours.watch(f"data/{number}", b"t" * 1000)

    with pytest.raises(XenstoreError, match="ENOMEM"):
        write_in_all()
    ours.reset()
    with pytest.raises(XenstoreError, match="ENOMEM"):
        watch_all()
    assert store.domains[3].memory_bytes < store.quotas.memory_bytes
    ours.reset()
    ours.rm("data/x")
    assert store.domains[3].memory_bytes < 100


def test_control_is_for_the_host_and_says_what_it_can(store):
    tool = control_connection(store)
    said, _ = answer(tool, Frame(Op.CONTROL, 1, 0, b"help\0"))
    assert said.payload == b"check\nprint\nquota\nhelp\0"
    said, _ = answer(tool, Frame(Op.CONTROL, 1, 0, b"print\0hello\0"))
    assert said.payload == b"OK\0"
    for words in (b"help\0x\0", b"print\0", b"log\0on\0", b"quota\0set\0nodes\0\xc2\xb2\0", b""):
        said, _ = answer(tool, Frame(Op.CONTROL, 1, 0, words))
        assert said.payload == b"EINVAL\0"
