"""Boards: pins to bitstream, and the host link to a running one."""
