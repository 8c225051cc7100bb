"""What is measured of hosts and VMs over time: round-robin archives, as xapi's xcp-rrdd has."""
