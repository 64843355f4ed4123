"""Tuning: many settings of the memory from one search, and the choice among them."""
