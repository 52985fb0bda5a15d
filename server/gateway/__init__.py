"""The HTTP/JSON interface: each RPC that the protos give a route, through a client of the gRPC server itself."""
