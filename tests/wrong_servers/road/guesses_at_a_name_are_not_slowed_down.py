"""Who guesses at one name from many addresses is not slowed down."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_who_guesses_at_one_name_waits_longer_and_longer"
SAYS = "got something else|assert"
REPLACE = {"            by_name.was_wrong()\n": ""}
