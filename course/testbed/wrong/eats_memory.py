"""What a client says is kept for ever, and a thousandfold."""

from base import Chat, main


class Wrong(Chat):
    kept = ()

    def message(self, client, line):
        self.kept = [*self.kept, bytearray(b"x" * (200 << 20))]
        super().message(client, line)


main(Wrong)
