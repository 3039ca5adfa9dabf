"""The password of a name that nobody has registered is not even hashed, which tells which names are registered."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_every_check_does_the_same_work"
SAYS = "assert"
REPLACE = {
    "        if not password:  # no guess": "        if not password or name not in self.known:  # no guess",
}
