"""How a file becomes documents: one file a format, and `choose_format.py`, which knows them by suffix."""
