"""Which layout is best, and why."""
