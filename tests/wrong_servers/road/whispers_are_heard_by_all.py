"""What is for one person alone is told to everybody."""

STEP = "commands"
FOUND_BY = "test_road_commands.test_a_word_to_one_person_alone"
SAYS = "carla should have heard nothing"
REPLACE = {
    "self.answer(other, f": "self.say(client, f",
}
