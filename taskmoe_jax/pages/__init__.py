"""Pages that need nothing but a browser: markup and drawings."""
