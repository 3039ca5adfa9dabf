"""A message that looks like a notice is told as it is."""

STEP = "names"
FOUND_BY = "test_road_names.test_a_message_cannot_be_taken_for_a_notice"
SAYS = r"came: b'\* bob left"
REPLACE = {
    'f"{client.name} says: {text}\\n"': 'text + "\\n" if text[0] == "*" else f"{client.name} says: {text}\\n"',
}
