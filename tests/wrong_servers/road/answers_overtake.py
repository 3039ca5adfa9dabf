"""An answer is sent at once, and what was said before it at the end of the turn."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_answers_come_in_their_order"
SAYS = "got something else"
REPLACE = {
    'alone, after all that was said before."""\n        self.broadcast()': 'alone."""',
}
