"""Storage repositories: where the toolstack keeps its disks, and what it does with them."""
