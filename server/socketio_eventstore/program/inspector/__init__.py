"""The inspector: pages below ``/inspect/`` that show a running server to people, and change nothing."""
