"""It never listens."""

import time

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        time.sleep(1000)


main(Wrong)
