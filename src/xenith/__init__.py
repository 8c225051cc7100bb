"""Xenith: an OpenStack-API cloud for Xen."""

__version__ = "0.1.0"
