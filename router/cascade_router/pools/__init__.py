"""Clients of the Triton servers behind the router."""
