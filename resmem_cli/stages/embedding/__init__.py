"""The parts of `embed`: what a network is run on, and the rows that come of it."""
