"""Guesses are slowed down, but those that wait all go on at the same moment."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_who_guesses_from_one_address_waits_longer_and_longer"
SAYS = "assert"
REPLACE = {"async with self.lock:\n                await": "if self.lock:\n                await"}
