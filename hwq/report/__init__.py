"""Measurements that are kept with the project, and the tables made from them."""
