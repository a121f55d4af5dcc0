"""Commands about files in folders."""
