"""Fits what the router knows of prompts: the tables behind its features, and the weights of its scorers."""
