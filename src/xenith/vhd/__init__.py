"""The VHD format: what Xen hosts store every disk in."""

#: What an image is called whose bytes are a tarball of VHDs, as its container is.
TARBALL = "ovf"


def is_tarball(disk_format: str | None, container_format: str | None) -> bool:
    """Tell whether an image's bytes are a tarball of VHDs, by its formats.

    Source: nova, xenapi ``vm_utils``: a VHD comes in a tarball where its container is ``ovf``.

    >>> is_tarball("vhd", "ovf"), is_tarball("vhd", "bare")
    (True, False)
    """
    return (disk_format, container_format) == ("vhd", TARBALL)
