"""The host's end of the link to a board; `hwq.frames` has what goes over the wire, `rtl.link` the other end."""
