"""Loads profiles, from files or the published reference tables, and computes their frontier."""
