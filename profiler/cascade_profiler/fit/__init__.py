"""Fits the router's prompt scorers: the word tables of its features, and the weights of its scorers."""
