"""The published systems as their code has them, quirks included; nothing here is used by the product."""
