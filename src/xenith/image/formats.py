"""What an image claims to be, held against its first and last bytes.

No parser of formats is ever let near a tenant's image here: only fixed fields of headers are
read, and anything that names another file (a backing file, a parent, a data file) is refused.
Source: QCOW2 header, VHD specification 1.0; magic numbers of the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from xenith.core.errors import Invalid
from xenith.core.limits import IMAGE_BYTES_MAX

#: Bytes looked at, at either end.
HEAD_BYTES = 64 * 1024
TAIL_BYTES = 512

DISK_FORMATS = (
    "ami",
    "ari",
    "aki",
    "vhd",
    "vhdx",
    "vmdk",
    "raw",
    "qcow2",
    "vdi",
    "iso",
    "ploop",
)
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")

_QCOW = b"QFI\xfb"
_VHD = b"conectix"
#: Magic bytes by format, with their offset.
_MAGICS: dict[str, tuple[tuple[int, bytes], ...]] = {
    "qcow2": ((0, _QCOW),),
    "vhdx": ((0, b"vhdxfile"),),
    "vmdk": ((0, b"KDMV"), (0, b"COWD"), (0, b"# Disk DescriptorFile")),
    "vdi": ((64, b"\x7f\x10\xda\xbe"),),
    "iso": ((32769, b"CD001"),),
}
#: Formats without a header: bytes that show another one claim to be what they are not.
_PLAIN = ("raw", "ami", "ari", "aki")
#: The kinds of VMDK that hold all their data. Source: VMware Virtual Disk Format 1.1, createType.
_VMDK_WHOLE = (b"monolithicSparse", b"streamOptimized")
#: An incompatible feature: the data is in another file. Source: QCOW2, bit 2.
_QCOW_EXTERNAL_DATA = 1 << 2


@dataclass
class Inspector:
    """Sees a stream pass and keeps its ends."""

    disk_format: str
    size_bytes: int = 0
    _head: bytes = b""
    _tail: bytes = field(default=b"")

    def see(self, piece: bytes) -> None:
        """Look at the next piece."""
        self.size_bytes += len(piece)
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + piece[-TAIL_BYTES:])[-TAIL_BYTES:]

    def virtual_size_bytes(self) -> int | None:
        """Check the whole and give the size of the disk in it, where that is known.

        Raises:
            Invalid: it is not what it claims to be, or refers to another file.
        """
        found = detected(self._head, self._tail)
        claimed = self.disk_format
        if claimed in _MAGICS or claimed == "vhd":
            if found != claimed and not (claimed == "iso" and found is None):
                raise Invalid(
                    f"Image format mismatch: expected {claimed}, found {found or 'raw'}",
                    kind="ImageFormatMismatch",
                )
        elif claimed in _PLAIN and found not in (None, "iso"):
            raise Invalid(
                f"Image format mismatch: expected {claimed}, found {found}",
                kind="ImageFormatMismatch",
            )
        if claimed == "qcow2":
            return _qcow2_size(self._head)
        if claimed == "vhd":
            return _vhd_size(self._tail)
        if claimed == "vmdk":
            _check_vmdk(self._head)
        return self.size_bytes if claimed in ("raw", "iso") else None


def detected(head: bytes, tail: bytes) -> str | None:
    r"""Name the format that the ends of an image show, or None.

    >>> detected(b"QFI\xfb" + bytes(100), bytes(512)), detected(bytes(512), bytes(512))
    ('qcow2', None)
    """
    for name, magics in _MAGICS.items():
        if any(head[at : at + len(magic)] == magic for at, magic in magics):
            return name
    if tail[:8] == _VHD or head[:8] == _VHD:
        return "vhd"
    return None


def _qcow2_size(head: bytes) -> int:
    if len(head) < 104 or int.from_bytes(head[4:8], "big") not in (2, 3):
        raise Invalid("The qcow2 header is cut short or of an unknown version")
    if int.from_bytes(head[8:16], "big") or int.from_bytes(head[16:20], "big"):
        raise Invalid("A qcow2 image with a backing file is not accepted")
    version = int.from_bytes(head[4:8], "big")
    if version == 3 and int.from_bytes(head[72:80], "big") & _QCOW_EXTERNAL_DATA:
        raise Invalid("A qcow2 image with an external data file is not accepted")
    cluster_bits = int.from_bytes(head[20:24], "big")
    size = int.from_bytes(head[24:32], "big")
    if not 9 <= cluster_bits <= 21 or not 0 < size <= IMAGE_BYTES_MAX:
        raise Invalid("The qcow2 header makes no sense")
    return size


def _vhd_size(tail: bytes) -> int:
    if len(tail) < TAIL_BYTES or tail[:8] != _VHD:
        raise Invalid("The VHD has no footer at its end")
    checksum = int.from_bytes(tail[64:68], "big")
    if checksum != ~(sum(tail[:64]) + sum(tail[68:])) & 0xFFFFFFFF:
        raise Invalid("The VHD footer's checksum is wrong")
    kind = int.from_bytes(tail[60:64], "big")
    if kind == 4:
        raise Invalid("A differencing VHD names a parent and is not accepted")
    if kind not in (2, 3):
        raise Invalid(f"The VHD is of an unknown type {kind}")
    size = int.from_bytes(tail[48:56], "big")
    if not 0 < size <= IMAGE_BYTES_MAX:
        raise Invalid("The VHD footer makes no sense")
    return size


def _check_vmdk(head: bytes) -> None:
    """Refuse a VMDK whose descriptor may name other files.

    Source: VMware Virtual Disk Format 1.1, Hosted Sparse Extents: the descriptor's place and
    length in sectors stand at 28 and 36.
    """
    if head[:4] != b"KDMV":
        raise Invalid("A VMDK that names other files is not accepted")
    begin = int.from_bytes(head[28:36], "little") * 512
    end = begin + int.from_bytes(head[36:44], "little") * 512
    if not 512 <= begin < end <= HEAD_BYTES:
        raise Invalid("The VMDK's descriptor is not at its beginning")
    kinds = re.findall(rb'^[ \t]*createType[ \t]*=[ \t]*"([^"\n]*)"', head[begin:end], re.MULTILINE)
    if len(kinds) != 1 or kinds[0] not in _VMDK_WHOLE:
        raise Invalid("A VMDK that names other files is not accepted")
