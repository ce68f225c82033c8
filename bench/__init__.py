"""Measurements beside the reference: ``python -m bench``."""
