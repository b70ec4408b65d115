"""What failures take from a run: how often to save, how many spares, and what is left."""
