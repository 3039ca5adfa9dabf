"""A child with a session of its own outlives it."""

import subprocess

from base import Chat, main


class Wrong(Chat):
    def run(self):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        super().run()


main(Wrong)
