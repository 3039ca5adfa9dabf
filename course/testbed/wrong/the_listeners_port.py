"""Each is told of its own address."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        for client in list(self.clients.values()):
            if client is not sender:
                self.send(client, client.name.encode() + line[line.index(b" says: ") :])


main(Wrong)
