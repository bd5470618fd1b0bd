"""What users configure: gin files, the guard against unread bindings."""
