"""Profiles to choose from: files, the published reference tables, and what their frontier looks like."""
