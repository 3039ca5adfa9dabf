"""It takes eight seconds until it listens."""

import time

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        time.sleep(8)
        return super().listen(port)


main(Wrong)
