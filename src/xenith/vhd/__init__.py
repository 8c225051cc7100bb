"""The VHD format: what Xen hosts store every disk in."""
