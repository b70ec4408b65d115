"""What a plan says, as values."""
