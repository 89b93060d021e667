"""The operator: decides which variants run where, and makes it so."""
