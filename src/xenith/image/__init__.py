"""Image v2 (glance): images, their bytes, members and tags."""
