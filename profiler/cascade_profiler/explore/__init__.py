"""Finds the settings of models that are worth serving, alone or in chains, and measures their profile."""
