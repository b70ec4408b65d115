"""What a plan says, as values, text and pictures."""
