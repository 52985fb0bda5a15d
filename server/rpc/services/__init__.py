"""The servicers: they call a rule inside a transaction and return its result."""
