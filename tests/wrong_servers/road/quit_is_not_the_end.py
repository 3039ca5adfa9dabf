"""What somebody says after /quit is told."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_quit_leaves"
SAYS = "and one more"
REPLACE = {
    "not in self.clients:\n            return": 'not in self.clients and text[0] != "a":\n            return',
}
