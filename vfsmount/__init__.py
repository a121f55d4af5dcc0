"""Mount Backend.AI virtual folders as ordinary directories."""

__version__ = "0.1.0"
