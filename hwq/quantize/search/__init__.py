"""Mixed precision: which layers' weights are int8, int4 or codebooks, within limits on cycles, bytes or accuracy."""
