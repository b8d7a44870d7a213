"""Guards: what looks at requests and replies, link by link."""
