"""Decisions without waiting: time and randomness come in, what to do goes out."""
