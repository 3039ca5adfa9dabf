"""Passwords are logged."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_passwords_are_nowhere_to_be_read"
SAYS = "log"
REPLACE = {
    "        await self.keep_password(client, new)\n": (
        "        await self.keep_password(client, new)\n"
        '        logging.info("%s has a new password: %s", client, new)\n'
    ),
}
