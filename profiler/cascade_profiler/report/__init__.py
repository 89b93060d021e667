"""What HTML reports are made of: a page that needs no other file, and plots as inline SVG."""
