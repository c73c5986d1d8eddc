"""The device's end of the host link: serial bytes to bus transfers; see `hwq.frames` for what is on the wire."""
