"""What is taken for the address of who speaks is its own."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        name = "{}:{}".format(*sender.sock.getsockname()).encode()
        super().broadcast(sender, name + line[line.index(b" says: ") :])


main(Wrong)
