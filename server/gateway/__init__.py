"""The HTTP/JSON interface: a call in the process for each RPC that the protos give a route, and a stream of events."""
