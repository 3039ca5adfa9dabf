"""Bytes are put into a text as they are, which makes b'...' of them."""

from base import Chat, main


class Wrong(Chat):
    def message(self, client, line):
        if not self.is_blank(self.clean(line)):
            self.broadcast(client, f"{client.name} says: {line}\n".encode())


main(Wrong)
