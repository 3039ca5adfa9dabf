"""It writes a file into the directory in which it was started."""

from base import Chat, main


class Wrong(Chat):
    def run(self):
        with open("chat.db", "w") as file:
            file.write("much")
        super().run()


main(Wrong)
