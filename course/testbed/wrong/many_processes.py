"""It has processes made until there are too many."""

import subprocess

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        while True:
            subprocess.Popen(["sleep", "1000"])


main(Wrong)
