"""The operations in Triton. Every kernel loads, converts to fp32, computes, and converts once to store."""
