"""The HTTP interface for publishing and inspection, below ``/api/``."""
