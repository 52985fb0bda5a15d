"""The HTTP/JSON interface: each RPC that the protos give a route, as a call of this process itself."""
