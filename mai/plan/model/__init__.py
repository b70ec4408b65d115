"""What is counted of a model: its products, a rank's parameters, work and kept activations."""
