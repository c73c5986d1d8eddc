"""Attributes of memories."""

__all__ = ["UNORDERED"]

UNORDERED = {"no_rw_check": True}
"""Of a memory whose words don't matter where they are read in the cycle that writes them: block RAM needs no logic then
to keep the read apart from the write."""
