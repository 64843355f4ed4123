"""Work on a stranger's bytes in a process of its own: if a library crashes or spins, only that one ends."""
