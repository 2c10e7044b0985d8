"""Procedures that wait, in straight lines, over the runtime."""
