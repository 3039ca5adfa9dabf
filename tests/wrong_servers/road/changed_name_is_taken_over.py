"""Who has given the password in /nick gets the name, also if somebody has come in with it meanwhile."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_a_name_that_is_taken_while_somebody_is_about_to_change_to_it"
SAYS = "got something else"
REPLACE = {"            name, key = self.check_name(client, name)  # somebody else may have taken it meanwhile\n": ""}
