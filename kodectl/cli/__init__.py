"""One file per command group: parse, one call, print."""
