"""A browser that is asked for a password gets telnet's bytes, too."""

STEP = "web"
FOUND_BY = "test_road_web.test_a_password_belongs_to_the_name_at_both_doors"
SAYS = "not whole lines"
REPLACE = {
    "        if not client.browser:\n            self.send(client, HIDE)\n": "        self.send(client, HIDE)\n",
}
