"""HTTP/2 from the side of a client that does as it likes with its streams, and answers what a client must answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER_BYTES = 9
_END_HEADERS = 4
DEFAULT_WINDOW = 2**16 - 1
_ERRORS = ("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED")
_ERRORS += ("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM")
_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_MOST_IN_A_FRAME = 2**18
_MOST_UNSENT = 2**18
_ZEROS = memoryview(bytes(_MOST_IN_A_FRAME))

Headers = Sequence[tuple[str, str]]


@dataclass
class _Stream:
    """A call that stands: some bytes and so many zeros are still to be sent, so many of them at this time."""

    begin: bytes
    zeros: int
    window: int
    ends: bool
    status: str = ""

    @property
    def unsent(self) -> int:
        return len(self.begin) + self.zeros

    def next_part(self, size: int) -> bytes | memoryview:
        """Take so many bytes of what is to be sent, or somewhat fewer."""
        if self.begin:
            part, self.begin = self.begin[:size], self.begin[size:]
            return part
        self.zeros -= size
        return _ZEROS[:size]


class Http2Connection(asyncio.Protocol):
    """One connection; `ended` is told how the server ended each of its streams, `goaway` that it wants no more of them.

    Streams that it took before a GOAWAY stay open.
    """

    def __init__(self, ended: Callable[[str], None], goaway: Callable[[], None], window: int = DEFAULT_WINDOW):
        self.closed = False
        self.goes_away = False
        # What the server allows, once it has said so.
        self.max_streams = 0
        self._ended = ended
        self._goaway = goaway
        self._own_window = window
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ponged: dict[bytes, asyncio.Future[None]] = {}
        self._ids = itertools.count(1, 2)
        self._streams: dict[int, _Stream] = {}
        self._sending: list[int] = []
        self._window = self._initial_window = DEFAULT_WINDOW
        self._max_frame = 2**14
        self._received = bytearray()
        self._block = b""
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()

    @property
    def open_streams(self) -> int:
        """How many streams stand."""
        return len(self._streams)

    @property
    def is_behind(self) -> bool:
        """Whether the server takes less than is sent."""
        return self._transport.get_write_buffer_size() > _MOST_UNSENT

    @property
    def unsent(self) -> int:
        """How many bytes the server has not let us send."""
        return sum(self._streams[each].unsent for each in self._sending)

    async def settled(self, seconds: float) -> None:
        """Return once the server has said what it allows. Raises OSError, TimeoutError."""
        await asyncio.wait_for(asyncio.shield(self._settled), seconds)

    async def taken(self, seconds: float) -> None:
        """Return once the server has read all that was sent. Raises OSError, TimeoutError."""
        if self.closed:
            raise ConnectionError
        data = len(self._ponged).to_bytes(8, "big")
        self._ponged[data] = asyncio.get_running_loop().create_future()
        self._send(PingFrame(0, opaque_data=data))
        await asyncio.wait_for(self._ponged[data], seconds)

    def open(self, headers: Headers, begin: bytes, zeros: int, *, ends: bool) -> None:
        """Begin a stream: headers, some bytes, so many zeros as the windows allow, and perhaps its end."""
        stream_id = next(self._ids)
        frame = HeadersFrame(stream_id, data=self._block_of(headers))
        frame.flags.add("END_HEADERS")
        self._send(frame)
        self._streams[stream_id] = _Stream(begin, zeros, self._initial_window, ends)
        if begin or zeros:
            self._sending.append(stream_id)
            self._go_on()

    def open_and_reset(self, headers: Headers, times: int) -> None:
        """Begin so many streams and give each up at once; nothing is known of them afterwards."""
        block, error = self._block_of(headers), _ERRORS.index("CANCEL").to_bytes(4, "big")
        for stream_id in itertools.islice(self._ids, times):
            begun = _header(HeadersFrame.type, _END_HEADERS, stream_id, len(block))
            reset = _header(RstStreamFrame.type, 0, stream_id, len(error))
            self._transport.writelines([begun, block, reset, error])

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Say what a client says first."""
        self._transport = transport
        settings = {SettingsFrame.ENABLE_PUSH: 0, SettingsFrame.INITIAL_WINDOW_SIZE: self._own_window}
        transport.write(_PREFACE)
        self._send(SettingsFrame(0, settings=settings))

    def connection_lost(self, _: Exception | None) -> None:
        """End all streams."""
        self.closed = True
        lost = ConnectionError("the server has closed the connection")
        for waiting in (self._settled, *self._ponged.values()):
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()  # Perhaps nothing waits for it.
        for stream_id in tuple(self._streams):
            self._end(stream_id, "closed")

    def data_received(self, data: bytes) -> None:
        """Take frames, each as a whole."""
        self._received += data
        while len(self._received) >= _FRAME_HEADER_BYTES:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._received[:_FRAME_HEADER_BYTES])))
            end = _FRAME_HEADER_BYTES + length
            if len(self._received) < end:
                return
            frame.parse_body(memoryview(bytes(self._received[_FRAME_HEADER_BYTES:end])))
            del self._received[:end]
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                self._settle(frame.settings)
            case PingFrame() if "ACK" in frame.flags:
                if frame.opaque_data in self._ponged and not self._ponged[frame.opaque_data].done():
                    self._ponged[frame.opaque_data].set_result(None)
            case PingFrame():
                answer = PingFrame(0, opaque_data=frame.opaque_data)
                answer.flags.add("ACK")
                self._send(answer)
            case HeadersFrame() | ContinuationFrame():
                self._take_headers(frame)
            case DataFrame():
                if frame.flow_controlled_length:
                    self._send(WindowUpdateFrame(0, window_increment=frame.flow_controlled_length))
                if frame.flow_controlled_length and self._own_window and frame.stream_id in self._streams:
                    self._send(WindowUpdateFrame(frame.stream_id, window_increment=frame.flow_controlled_length))
                if "END_STREAM" in frame.flags:
                    self._end(frame.stream_id, "ended")
            case RstStreamFrame():
                self._end(frame.stream_id, f"reset {_error(frame.error_code)}")
            case GoAwayFrame():
                if not self.goes_away:
                    self._goaway()
                self.goes_away = True
                for stream_id in [each for each in self._streams if each > frame.last_stream_id]:
                    self._end(stream_id, f"GOAWAY {_error(frame.error_code)}")
            case WindowUpdateFrame():
                if frame.stream_id == 0:
                    self._window += frame.window_increment
                elif frame.stream_id in self._streams:
                    self._streams[frame.stream_id].window += frame.window_increment
                self._go_on()

    def _settle(self, settings: dict[int, int]) -> None:
        if SettingsFrame.MAX_CONCURRENT_STREAMS in settings or not self._settled.done():
            self.max_streams = settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, 2**31 - 1)
        self._max_frame = min(settings.get(SettingsFrame.MAX_FRAME_SIZE, self._max_frame), _MOST_IN_A_FRAME)
        more = settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._initial_window) - self._initial_window
        self._initial_window += more
        for stream in self._streams.values():
            stream.window += more
        answer = SettingsFrame(0)
        answer.flags.add("ACK")
        self._send(answer)
        if not self._settled.done():
            self._settled.set_result(None)
        self._go_on()

    def _take_headers(self, frame: HeadersFrame | ContinuationFrame) -> None:
        self._block += frame.data
        ends = "END_STREAM" in frame.flags
        if "END_HEADERS" not in frame.flags:
            return
        headers = {str(name): str(value) for name, value in self._decoder.decode(self._block)}
        self._block = b""
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return
        if headers.get(":status", "200") != "200":
            stream.status = f"HTTP {headers[':status']}"
        if "grpc-status" in headers:
            stream.status = _STATUS_NAMES.get(int(headers["grpc-status"]), headers["grpc-status"])
        if ends:
            self._end(frame.stream_id, stream.status or "ended")

    def _block_of(self, headers: Headers) -> bytes:
        # Nothing goes into the table, so that the server has nothing to remember of us.
        block: bytes = self._encoder.encode([(name, value, True) for name, value in headers], huffman=False)
        return block

    def _go_on(self) -> None:
        """Send what the windows allow of what is unsent."""
        for stream_id in tuple(self._sending):
            stream = self._streams[stream_id]
            while stream.unsent and (most := min(stream.unsent, stream.window, self._window, self._max_frame)) > 0:
                part = stream.next_part(most)
                stream.window -= len(part)
                self._window -= len(part)
                is_last = stream.ends and not stream.unsent
                self._transport.writelines([_header(DataFrame.type, is_last, stream_id, len(part)), part])
            if not stream.unsent:
                self._sending.remove(stream_id)

    def _end(self, stream_id: int, how: str) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.unsent:
            self._sending.remove(stream_id)
        self._ended(stream.status if how == "closed" and stream.status else how)

    def _send(self, frame: Frame) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame.serialize())


def _header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Return a frame's header; by hand, since hundreds of thousands of frames are sent."""
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big")


def _error(code: int) -> str:
    return _ERRORS[code] if code < len(_ERRORS) else str(code)
