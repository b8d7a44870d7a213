"""A policy and an estimator for junctor from outside its tree."""
