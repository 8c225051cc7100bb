"""What passes between cells: intents down. A cloud of one cell is a tree of one, on the same path.

Changes up, topology and capacity digests come with the cell tree.
"""
