"""It goes into the background, as daemons did."""

import os

from base import Chat, main


class Wrong(Chat):
    def run(self):
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        super().run()


main(Wrong)
