"""What the commands of operators share: the connection to a server, options, tables."""
