"""ICE (RFC 8445), a full agent without clock or sockets: `agent` decides, the other modules are what it decides with.

One stream of one component: what kodectl connects is a datagram path. Trickle is RFC 8838, consent RFC 7675.
"""
