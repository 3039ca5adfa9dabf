"""A chat server that waits in coroutines, on asyncio's event loop: one for each client awaits its next line."""

import asyncio
import contextlib
import sys

MAX_LINES = 1000  # that wait for a client, before it is dropped

clients = set()


async def run(port):
    server = await asyncio.start_server(accept, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr)
    await server.serve_forever()


async def accept(reader, writer):
    host, port = writer.get_extra_info("peername")
    client = Client(reader, writer, f"{host}:{port}")
    clients.add(client)
    await receive(client)


async def receive(client):
    client.sending = asyncio.create_task(send(client))  # kept: of a task that nobody keeps the loop may lose sight
    with contextlib.suppress(OSError):
        async for line in client.reader:
            broadcast(client, line)
            await asyncio.sleep(0)  # let them send: while lines are there already, async for does not wait
    clients.remove(client)
    client.sending.cancel()
    client.writer.close()


def broadcast(sender, line):
    for client in clients:
        if client is not sender:
            try:
                client.lines.put_nowait(f"{sender.name} says: ".encode() + line.rstrip() + b"\n")
            except asyncio.QueueFull:
                client.writer.transport.abort()  # its reader reports the end now


async def send(client):
    with contextlib.suppress(OSError):
        while True:
            client.writer.write(await client.lines.get())
            await client.writer.drain()


class Client:
    def __init__(self, reader, writer, name):
        self.reader = reader
        self.writer = writer
        self.name = name
        self.lines = asyncio.Queue(MAX_LINES)  # what it is still to be sent
        self.sending = None  # the task that sends it


asyncio.run(run(int(sys.argv[1]) if sys.argv[1:] else 9669))
