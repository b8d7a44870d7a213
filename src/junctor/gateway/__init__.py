"""The gateway: speaks HTTP."""
