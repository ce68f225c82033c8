"""The event log in an SQLite database."""
