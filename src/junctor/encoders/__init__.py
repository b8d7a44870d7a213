"""Encoders: text to vector. One file each; `static` is the default."""
