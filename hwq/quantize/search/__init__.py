"""Mixed precision: which layers' weights are int8, int4 or codebooks, within limits on cycles, bytes or accuracy."""

from hwq.quantize.search.mixed import Found, Searcher, search
from hwq.quantize.search.problem import Limits, Metric, Point

__all__ = ["Found", "Limits", "Metric", "Point", "Searcher", "search"]
