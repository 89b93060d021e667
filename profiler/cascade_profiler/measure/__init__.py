"""Measures times and quality of variants through a real Triton, and writes them as a CascadeProfile."""
