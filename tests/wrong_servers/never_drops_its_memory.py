"""Something is kept of each client that ever came."""

from base import Chat, main


class Wrong(Chat):
    memories = ()

    def drop(self, client):
        self.memories = [*self.memories, bytearray(b"x" * 20_000)]
        super().drop(client)


main(Wrong)
