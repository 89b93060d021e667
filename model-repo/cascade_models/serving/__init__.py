"""The Triton model behind every variant."""
