"""How a file becomes documents: one file a format, and `choose.py`, which knows them by suffix."""
