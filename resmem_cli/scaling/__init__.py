"""What a memory takes on one machine and on many: bytes, time, and a simulation of a whole run."""
