"""The published systems as in their published code, including its quirks. The product uses nothing from here."""
