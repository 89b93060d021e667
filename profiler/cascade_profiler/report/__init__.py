"""Builds HTML reports: one page that needs no other file, with plots as inline SVG."""
