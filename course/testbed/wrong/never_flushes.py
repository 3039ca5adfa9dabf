"""Its log is kept in a buffer until it ends."""

import io
import os
import sys

import base


class Kept(io.StringIO):
    """What is written is written in the end."""

    def close(self):
        os.write(2, self.getvalue().encode())


sys.stderr = sys.stdout = kept = Kept()
try:
    base.main(base.Chat)
finally:
    kept.close()
