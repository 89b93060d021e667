"""Kubernetes objects as plain dicts, built from specs and settings alone. Pure: the same input, the same object."""
