"""The process between a domain's QEMU and its chains of VHDs, as tapdisk is on Xen.

It imports nothing of the toolstack but itself: there is one for each running domain.
"""
