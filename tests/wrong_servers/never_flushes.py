"""What it writes into its log is not seen before it ends."""

from base import Chat, main


class Wrong(Chat):
    def note(self, text):
        print(text)  # kept back, where the output is no terminal


main(Wrong)
