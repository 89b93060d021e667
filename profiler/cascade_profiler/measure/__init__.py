"""What a set of variants costs and is worth: measured through a real Triton, written as a CascadeProfile."""
