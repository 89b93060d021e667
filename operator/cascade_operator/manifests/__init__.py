"""Kubernetes objects as plain dicts, built only from specs and settings. Pure: the same input gives the same object."""
