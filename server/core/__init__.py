"""What every other package may use: errors, callers, RIDs, permissions, settings, logs. It imports no other package."""
