"""In-model routing in PyTorch: gates, balance, dispatch, experts, adapters, depth, diagnostics. Extra: `junctor[layers]`."""
