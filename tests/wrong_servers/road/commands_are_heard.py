"""A command is also something that is said."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_wrong_ones_get_a_line_that_helps"
SAYS = "bob should have heard nothing"
REPLACE = {
    "self.command(client, text)\n": 'self.command(client, text)\n            self.say(client, f"{text}\\n")\n',
}
