"""The shared parts of the operators' commands: the connection to a server, options, tables."""
