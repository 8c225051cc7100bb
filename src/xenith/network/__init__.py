"""The network service: networks, subnets and ports, and the addresses of servers.

Rows are the API cell's. Compute reaches in through the contract methods of
``operations.Networks`` only, inside its own transactions.
"""
