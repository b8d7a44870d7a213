"""A policy for junctor from outside its tree."""
