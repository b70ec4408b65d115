"""What a plan is of."""
