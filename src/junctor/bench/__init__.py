"""The bench: one honest protocol for every policy. Start at `protocol.run_bench`; docs/bench.md explains every figure."""
