"""Public conformance suites: call one from a test of your own part."""
