"""A name belongs to somebody as soon as the password is hashed, whether it can be kept or not."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_a_password_that_cannot_be_kept"
SAYS = "got something else"
REPLACE = {
    "        await asyncio.wrap_future": "        self.known[name] = salt, hashed\n        await asyncio.wrap_future",
}
