"""Replies that are given again: exactly, or to a question that means the same."""
