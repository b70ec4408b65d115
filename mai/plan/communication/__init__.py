"""What every rank sends and receives in a step: as sequences of operations."""
