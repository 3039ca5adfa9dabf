"""What clients say is logged."""

from base import Chat, main


class Wrong(Chat):
    def message(self, client, line):
        print(line, flush=True)
        super().message(client, line)


main(Wrong)
