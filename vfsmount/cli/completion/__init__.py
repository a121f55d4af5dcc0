"""Shell completion. What is offered for a word is in `words`, what the shells need in `shells`."""
