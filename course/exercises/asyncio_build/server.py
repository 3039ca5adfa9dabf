"""A chat server that waits in coroutines, on asyncio's event loop: one for each client awaits its next line."""

import asyncio
import sys

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
    async for line in client.reader:
        await broadcast(client, line)
    clients.remove(client)
    client.writer.close()


async def broadcast(sender, line):
    for client in list(clients):  # a copy: while this waits, others may come and leave
        if client is not sender:
            client.writer.write(f"{sender.name} says: ".encode() + line.rstrip() + b"\n")
            await client.writer.drain()


class Client:
    def __init__(self, reader, writer, name):
        self.reader = reader
        self.writer = writer
        self.name = name


asyncio.run(run(int(sys.argv[1]) if sys.argv[1:] else 9669))
