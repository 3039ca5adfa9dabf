"""A line chat with Trio, as its documentation does such things: a nursery with a task per connection, and,
since only one task may send on a stream, a memory channel and a sending task for each client.

    python bench/others/trio_chat.py 9669
"""

import sys

import trio

QUEUED = 10_000  # lines a client may fall behind before it is cut off

users = {}


async def send_from(channel, stream):
    async for message in channel:
        await stream.send_all(message)


async def receive_into_the_room(stream, name):
    received = b""
    async for data in stream:
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            message = f"{name} says: {line.decode(errors='replace')}\n".encode()
            for user, channel in users.items():
                if user != name:
                    try:
                        channel.send_nowait(message)
                    except (trio.WouldBlock, trio.BrokenResourceError):
                        channel.close()
                    except trio.ClosedResourceError:
                        pass


async def serve(stream):
    host, port = stream.socket.getpeername()
    name = f"{host}:{port}"
    users[name], outgoing = trio.open_memory_channel(QUEUED)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_from, outgoing, stream)
            await receive_into_the_room(stream, name)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        del users[name]


trio.run(lambda: trio.serve_tcp(serve, int(sys.argv[1]), host="127.0.0.1", backlog=1024))
