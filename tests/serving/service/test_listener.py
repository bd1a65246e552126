"""A port that closes loses no connection, and one that cannot accept does not fill the log."""

import asyncio
import contextlib
import errno
import logging
import os
import re
import resource
import socket
import threading

import clocks
import pytest
from starlette import applications

from serving import errors, process
from serving.ranker import verified_ranker
from serving.service import connections, http_server, listener, log_format


class Greeting(asyncio.Protocol):
    """Says hello and hangs up."""

    def connection_made(self, transport):
        transport.write(b"hello")
        transport.close()


@pytest.fixture
def bound():
    with process.bound_socket("127.0.0.1", 0) as sock:
        yield sock


def greeting(sock):
    return listener.Listener(sock, Greeting, lambda _: True, lambda: None, None, 10.0)


async def read_all(connection):
    connection.setblocking(False)
    received = b""
    while chunk := await asyncio.get_running_loop().sock_recv(connection, 100):
        received += chunk
    return received


def test_closing_answers_queued_connections_and_refuses_later_ones(bound):
    async def main():
        with contextlib.ExitStack() as stack:
            # Stands for another process that shares the socket and accepts nothing.
            other = stack.enter_context(socket.socket(fileno=os.dup(bound.fileno())))
            listening = greeting(bound)
            listening.start()
            # More than one turn of the loop accepts. They are connected before the loop runs.
            queued = [
                stack.enter_context(socket.create_connection(bound.getsockname(), 30))
                for _ in range(20)
            ]
            address = bound.getsockname()
            closing = asyncio.create_task(listening.close())
            await asyncio.sleep(0)
            late = stack.enter_context(socket.socket())
            late.setblocking(False)
            connecting = asyncio.create_task(asyncio.get_running_loop().sock_connect(late, address))
            await closing
            replies = await asyncio.gather(*map(read_all, queued))
            # The other process still has the port open, but no connection can get into its queue.
            assert not connecting.done()
            other.close()
            with pytest.raises(ConnectionRefusedError):
                await connecting
            return replies

    assert asyncio.run(main()) == [b"hello"] * 20


@contextlib.contextmanager
def no_file_descriptor():
    """Leaves this process without a free file descriptor."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_wait_until_file_descriptors_are_free(bound, caplog):
    def messages():
        # Other threads of this process log, too.
        return [r.getMessage() for r in caplog.records if r.name == listener.__name__]

    async def main():
        listening = greeting(bound)
        listening.start()
        with socket.create_connection(bound.getsockname(), 30) as connection:
            connection.setblocking(False)
            with no_file_descriptor():
                while not messages():
                    await asyncio.sleep(0)
            reply = await read_all(connection)
        await listening.close()
        return reply

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(main()) == b"hello"
    # An earlier server in this process may have installed its rate limit, which appends a count.
    text = (
        "No connection can be accepted ([Errno 24] Too many open files). Others wait in the queue "
        "of the port."
    )
    assert all(message.startswith(text) for message in messages())
    # asyncio logs it 2,048 times for each attempt.
    assert len(caplog.records) < 20


def test_a_port_is_announced_once_it_accepts_connections(bound):
    announced = []

    def announce():
        with socket.create_connection(bound.getsockname(), 30):
            announced.append("accepted")

    async def main():
        server = http_server.HttpServer(
            applications.Starlette(), threading.Event(), own_logs=False, announce=announce
        )
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([bound])
        await server.lifespan.shutdown()

    asyncio.run(main())
    assert announced == ["accepted"]


def test_a_port_in_use_is_refused_in_one_line(bound, caplog):
    ended = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        ended.append(app)

    application = applications.Starlette(lifespan=lifespan)
    server = http_server.HttpServer(application, threading.Event(), own_logs=False)
    host, port = bound.getsockname()
    with process.bound_socket(host, port) as other:
        other.listen()
        with pytest.raises(
            errors.ServerStartError, match=rf"Cannot serve on {host}:{port} \(.*in use"
        ):
            server.run([bound])
    assert ended == [application]
    assert not caplog.records


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", r"192\.0\.2\.1:1 .*; expected an address of this machine as --host"),
        ("[::1]", r"\[::1\]:1 \(.*; expected an address of this machine .* or ::1"),
    ],
)
def test_an_address_of_another_machine_is_refused_with_a_remedy(host, message):
    with pytest.raises(OSError, match="Errno") as failed:
        process.bound_socket(host, 1)
    error = http_server.cannot_serve(host, 1, failed.value)
    assert re.match(f"Cannot serve on {message}", str(error))


def test_a_port_that_only_root_may_use_names_the_others():
    error = http_server.cannot_serve("::1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert str(error).startswith("Cannot serve on [::1]:80 ([Errno 13] Permission denied); choose")
    assert "--port above 1023" in str(error)


def test_a_line_of_code_logs_once_a_second_with_the_number_of_suppressed_records():
    clock = clocks.Clock()
    limited = log_format.OncePerSecond(clock)

    def passed(line, *arguments):
        record = logging.LogRecord("n", logging.WARNING, "file.py", line, "%s", arguments, None)
        return record.getMessage() if limited.filter(record) else None

    assert [passed(1, "a"), passed(1, "b"), passed(2, "c"), passed(1, "d")] == [
        *("a", None, "c", None)
    ]
    clock.advance(1)
    assert passed(1, "e") == "e (2 more since the last such message)"
    clock.advance(1)
    assert passed(1, "f") == "f"


def test_late_ranker_calls_are_rate_limited():
    assert verified_ranker.__name__ in http_server._LOUD_LOGGERS


class Waiting(asyncio.Protocol):
    """Keeps its transport, and reads nothing."""

    def connection_made(self, transport):
        transport.pause_reading()
        self.transport = transport


def test_a_connection_whose_request_has_arrived_is_not_closed_to_make_room():
    async def scenario():
        loop, idle = asyncio.get_running_loop(), {}
        protocols, clients = [], []
        for _ in range(2):
            client, server = socket.socketpair()
            server.setblocking(False)
            _, protocol = await loop.connect_accepted_socket(Waiting, server)
            idle[protocol] = None
            protocols.append(protocol)
            clients.append(client)
        clients[0].sendall(b"GET /")
        connections.close_oldest(idle)
        closed = [protocol.transport.is_closing() for protocol in protocols]
        connections.close_oldest(idle)
        assert not protocols[0].transport.is_closing()
        for protocol, client in zip(protocols, clients, strict=True):
            protocol.transport.abort()
            client.close()
        return closed

    assert asyncio.run(scenario()) == [False, True]
