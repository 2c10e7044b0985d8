"""A peer-to-peer node of the KodeChain network and the command line that operates it."""

__version__ = "0.1.0"
