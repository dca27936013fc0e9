"""One module a command; each defines a click command of its own name."""
