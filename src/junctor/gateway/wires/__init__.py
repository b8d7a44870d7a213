"""The APIs that callers speak."""
