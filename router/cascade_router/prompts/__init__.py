"""What the router learns from a prompt's text: features, a hardness score, and live thresholds (pure)."""
