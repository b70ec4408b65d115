"""What a scheduler asks of a plan: sizes, grace, the cost of a stop, exit codes, placement."""
