"""The program: command line, configuration, composition root and HTTP routes."""
