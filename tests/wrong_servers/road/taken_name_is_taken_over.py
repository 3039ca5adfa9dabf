"""Who has given the password comes in, also if somebody of that name has come in meanwhile."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_a_name_that_is_taken_meanwhile"
SAYS = "assert"
REPLACE = {
    "self.admit(client, *self.check_name(client, client.wanted))": (
        "self.admit(client, client.wanted, key_of(client.wanted))"
    ),
}
