"""Who takes another name keeps the one it had."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_another_name"
SAYS = "got something else"
REPLACE = {
    "        del self.room[client.key]\n        client.name, client.key": "        client.name, client.key",
}
