"""Self-contained HTML reports, with plots as inline SVG."""
