"""The word in the prefix is another one."""

from base import Chat, main


class Wrong(Chat):
    def message(self, client, line):
        text = self.clean(line)
        if not self.is_blank(text):
            self.broadcast(client, f"{client.name} said: {text}\n".encode())


main(Wrong)
