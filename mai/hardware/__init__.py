"""What GPUs and clusters give and cost: each number with its source, or unknown."""
