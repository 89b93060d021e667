"""What the router computes from a prompt's text: features, a hardness score, and live thresholds (pure)."""
