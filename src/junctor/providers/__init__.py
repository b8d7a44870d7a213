"""Providers: talk to upstreams. One file each."""
