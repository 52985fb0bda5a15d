"""A name server for tests, whose one name has the addresses of those replicas that a client shall find."""

from __future__ import annotations

from types import TracebackType

from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

NAME = "replicas.test"


class Names(BaseResolver):
    """Answers on a loopback port, whatever is asked, with `addresses`, which can be changed."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._server = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger(logf=lambda _: None))

    def __enter__(self) -> Names:
        self._server.start_thread()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop()
        self._server.server.server_close()

    def target(self, port: int) -> str:
        """What gRPC clients take for the replicas, all of which have that port."""
        return f"dns://127.0.0.1:{self._server.server.server_address[1]}/{NAME}:{port}"

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for address in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply
