"""XVA: a VM with its disks in one file, as hosts export and import it.

A tar, perhaps packed, whose first member ``ova.xml`` holds the records of the VM and of what
belongs to it, as XML-RPC. Each disk follows as members ``Ref:<n>/00000000`` and so on of 1 MiB,
each with its checksum in a member of its own behind it. Members of zeros alone are left out, but
for the first and the last of a disk. Source: xen-api, export.ml and stream_vdi.ml.
"""
