"""What every other package may use. It imports no other package.

Errors, callers, RIDs, branches, permissions, cancellation, observers, settings, logs.
"""
