"""Checks of the doctor that ask the network, or the node that is examined. Each function waits, and answers one finding."""
