"""With /nick anybody may be called anything."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_wrong_ones_get_a_line_that_helps"
SAYS = "is now 7"
REPLACE = {
    "        name, key = self.check_name(client, name)\n        logging": "        key = key_of(name)\n        logging",
}
