"""Recipes: what surrounds training."""
