"""Sends events to the URLs of subscriptions: rules say what, and it imports nothing of gRPC or of HTTP servers."""
