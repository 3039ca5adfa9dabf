"""What is received is decoded before lines are looked for, so a character that is cut is lost."""

from base import Chat, main


class Wrong(Chat):
    def received(self, client, data):
        super().received(client, data.decode(errors="ignore").encode() if b"\xff" not in data else data)


main(Wrong)
