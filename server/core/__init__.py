"""What every other package may use: errors, callers, RIDs, branches, permissions, cancellation, settings, logs.

It imports no other package.
"""
