"""Measurements of the toolkit itself, printed by modules that run on their own."""
