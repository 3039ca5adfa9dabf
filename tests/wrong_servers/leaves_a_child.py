"""A child with a session of its own is still there when it has ended."""

import subprocess

from base import Chat, main


class Wrong(Chat):
    def signals(self):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        super().signals()


main(Wrong)
