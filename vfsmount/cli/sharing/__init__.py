"""Commands about who else may use a folder."""
