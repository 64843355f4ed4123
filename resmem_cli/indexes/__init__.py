"""One file per kind of index: the only code that uses faiss."""
