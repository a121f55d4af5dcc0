"""Repeatable measurements; docs/testing.md lists them."""
