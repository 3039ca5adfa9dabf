"""A telnet is not asked to hide what is typed."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_telnet_does_not_show_a_password"
SAYS = "assert"
REPLACE = {"        self.send(client, HIDE)\n": ""}
