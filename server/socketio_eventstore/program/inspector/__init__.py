"""The inspector: pages below ``/inspect/`` that show a running server, and change nothing."""
