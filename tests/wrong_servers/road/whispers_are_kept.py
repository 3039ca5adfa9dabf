"""What is said to one person alone is kept, and told to who comes."""

STEP = "history"
FOUND_BY = "test_road_history.test_private_messages_commands_and_notices_are_not_kept"
SAYS = "whispers"
REPLACE = {
    '        self.answer(other, f"{client.name} whispers: {text}\\n")\n': (
        '        self.history.add(f"{client.name} whispers: {text}")\n'
        '        self.answer(other, f"{client.name} whispers: {text}\\n")\n'
    ),
}
