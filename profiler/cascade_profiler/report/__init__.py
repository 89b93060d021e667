"""Plots as inline SVG and the self-contained HTML report of a simulation."""
