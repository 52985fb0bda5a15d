"""The gRPC side: servicers that delegate, and what happens around every call."""
