"""Estimators: predict outcomes per target. One file each."""
