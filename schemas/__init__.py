"""Records, identities, table definitions and errors. No I/O; every other package may import this one."""
