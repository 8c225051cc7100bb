r"""Parent locators: the spellings of its parent's path that a differencing VHD holds.

A spelling is a claim of whoever made the file. ``inside`` reads it as the name of a file in the
repository's one directory, or as nothing; no other path ever leaves this module.
Source: Virtual Hard Disk Image Format Specification 1.0, Parent Locator; blktap writes all three
codes from the relative path.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from xenith.vhd.footer import SECTOR_BYTES, refuse
from xenith.vhd.header import Header, Locator

RELATIVE, ABSOLUTE, URL = b"W2ru", b"W2ku", b"MacX"
#: What is believed first: a path that moves with the files, then one that may not.
CODES = (RELATIVE, URL, ABSOLUTE)
#: A bound on what is read of one. Source: Windows' longest path is 32,767 characters.
TEXT_BYTES_MAX = 65536
#: A Linux file name. Source: limits.h, NAME_MAX.
NAME_BYTES_MAX = 255


def encode_text(code: bytes, name: str) -> bytes:
    r"""Spell a file's name as a path relative to its child, as a locator of this code has it.

    >>> encode_text(b"MacX", "a b.vhd"), encode_text(b"W2ru", "a")
    (b'file://./a%20b.vhd', b'.\x00\\\x00a\x00')
    """
    if code == URL:
        return b"file://./" + quote(name, safe="").encode()
    if code not in {RELATIVE, ABSOLUTE}:
        raise refuse(f"a parent locator of code {code!r} is not written")
    try:
        return f".\\{name}".encode("utf-16-le")
    except UnicodeEncodeError as error:
        raise refuse("its parent's name holds half of a surrogate pair") from error


def decode_text(code: bytes, data: bytes) -> str:
    r"""Read a locator's bytes as a path, with ``/`` between its parts; nothing for other codes.

    >>> decode_text(b"W2ru", b".\0\\\0a\0"), decode_text(b"Wi2k", b"x")
    ('./a', '')
    """
    if code == URL:
        text = data.decode("utf-8", "replace").removeprefix("file://").removeprefix("localhost")
        return unquote(text, errors="replace").partition("\0")[0]
    if code in {RELATIVE, ABSOLUTE}:
        return data.decode("utf-16-le", "replace").partition("\0")[0].replace("\\", "/")
    return ""


def place(name: str, offset: int) -> tuple[tuple[Locator, ...], bytes]:
    """Lay the three locators of a parent side by side from ``offset``; give them and their bytes.

    ``space`` is in bytes, as Microsoft writes it: readers that expect sectors take 512 or more
    for bytes too.
    """
    locators, stored = [], b""
    for code in (URL, ABSOLUTE, RELATIVE):
        text = encode_text(code, name)
        space = -(-len(text) // SECTOR_BYTES) * SECTOR_BYTES
        locators.append(
            Locator(code=code, space=space, length_bytes=len(text), offset=offset + len(stored))
        )
        stored += text.ljust(space, b"\0")
    return tuple(locators), stored


def inside(path: str, directory: str) -> str | None:
    """Read a path as the name of a file in the directory, or as nothing if it leads elsewhere.

    >>> inside("./b.vhd", "/sr"), inside("/sr/b.vhd", "/sr"), inside("../b.vhd", "/sr")
    ('b.vhd', 'b.vhd', None)
    """
    name = path.removeprefix(directory.rstrip("/") + "/") if path.startswith("/") else path
    while name.startswith("./"):
        name = name[2:]
    return name if is_name(name) else None


def is_name(name: str) -> bool:
    """Tell whether a text is the name of a file, and not a path.

    >>> is_name("a.vhd"), is_name(".."), is_name("a/b"), is_name("")
    (True, False, False, False)
    """
    if name in {"", ".", ".."} or any(one in "/\\" or one < " " for one in name):
        return False
    try:
        return len(name.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def parent_candidates(header: Header, texts: dict[bytes, bytes], directory: str) -> list[str]:
    """List the files in the directory that a header may mean as its parent, likeliest first."""
    paths = [decode_text(code, texts[code]) for code in CODES if code in texts]
    paths.append(header.parent_name.replace("\\", "/"))
    names = (inside(path, directory) for path in paths)
    return list(dict.fromkeys(name for name in names if name is not None))
