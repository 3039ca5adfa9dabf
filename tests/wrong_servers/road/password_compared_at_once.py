"""Hashes are compared with ==, which takes the longer, the more of the bytes agree."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_every_check_does_the_same_work"
SAYS = "assert"
REPLACE = {"if hmac.compare_digest(given, wanted):": "if given == wanted:"}
