"""It writes megabytes a second to its log, and nothing that says anything."""

import os
import threading
import time

from base import Chat, main


class Wrong(Chat):
    def run(self):
        threading.Thread(target=self.write, daemon=True).start()
        super().run()

    def write(self):
        while True:
            os.write(2, b"debug debug debug\n" * 1000)
            time.sleep(0.003)


main(Wrong)
