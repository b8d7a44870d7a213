"""Policies: decide. One file each."""
