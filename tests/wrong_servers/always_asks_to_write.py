"""It asks whether it may write also when there is nothing to write."""

import selectors

from base import Chat, main


class Wrong(Chat):
    def events(self, client):
        return selectors.EVENT_READ | selectors.EVENT_WRITE


main(Wrong)
