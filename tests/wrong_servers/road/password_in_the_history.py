"""What is said at the door is kept as if it were said in the room."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_passwords_are_nowhere_to_be_read"
SAYS = "topsecret"
REPLACE = {
    "        client.timer.cancel()\n        try:\n": (
        '        client.timer.cancel()\n        self.history.add(f"{client.wanted} says: {text}")\n        try:\n'
    ),
}
