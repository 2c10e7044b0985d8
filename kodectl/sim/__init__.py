"""The runtime on virtual time, with a virtual network."""
