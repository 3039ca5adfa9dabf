"""Whoever guesses may guess again at once."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_who_guesses_from_one_address_waits_longer_and_longer"
SAYS = "assert"
REPLACE = {"        self.free = time.monotonic() + min(2**self.wrong, MAX_PAUSE)\n": ""}
