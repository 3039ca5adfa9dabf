"""An empty recv is ignored, so that a client that left is ready to be read for ever."""

import time

from base import Chat, main


class Wrong(Chat):
    def received(self, client, data):
        if data:
            super().received(client, data)
        else:
            time.sleep(0.002)  # more would be seen of it, and less of all else that runs here, if it never rested


main(Wrong)
